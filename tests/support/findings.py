#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads an answer of `lamella doctor GROUP --json`: findings.py FILE kinds prints the kinds of what is more than advice, in order;
findings.py FILE MEMBER KIND [VOLUME] prints a member of the first finding of that kind, a list line by line."""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    findings = json.load(file)["findings"]
if sys.argv[2] == "kinds":
    print(*(one["kind"] for one in findings if one["urgency"] != "advice"))
    sys.exit()
for one in findings:
    if one["kind"] == sys.argv[3] and sys.argv[4:] in ([], [one["volume"]]):
        value = one[sys.argv[2]]
        print(*(value if isinstance(value, list) else [value]), sep="\n")
        sys.exit()
sys.exit(f"no finding {' '.join(sys.argv[3:])}")

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether a folder holds what synced-writer.py logged of it.

    synced-judge.py FOLDER LOG [BEFORE AFTER]

Every name whose last line is "synced" must be there with that content. One that was being replaced or removed at the end may hold
either. With BEFORE and AFTER the folder is as it was at a moment between these two numbers of lines in the log: what was synced
before must be there, what was begun after must not.
"""
import hashlib
import os
import sys

folder, log = sys.argv[1:3]
lines = [line.split() for line in open(log) if line.endswith("\n")]
before, after = (int(sys.argv[3]), int(sys.argv[4])) if len(sys.argv) > 3 else (len(lines), len(lines))
certain, open_ended, every_digest = {}, set(), {}
for number, words in enumerate(lines):
    name = words[1]
    if words[0] == "synced":
        every_digest.setdefault(name, set()).add(words[2])
    if number >= after:
        continue
    if number >= before or words[0] != "synced":
        open_ended.add(name)
    else:
        certain[name] = words[2]
        open_ended.discard(name)

bad = judged = 0
there = {name for name in os.listdir(folder) if name != "lost+found" and not name.endswith(".new")}
for name in sorted(there | certain.keys()):
    digest = hashlib.sha256(open(f"{folder}/{name}", "rb").read()).hexdigest() if name in there else "missing"
    if name not in certain and name not in open_ended:
        allowed = {"missing"}
    elif name in open_ended:
        allowed = every_digest.get(name, set()) | {"missing"}
    else:
        allowed = {certain[name]}
        judged += 1
    # The digest of a file that was being written when the writer ended isn't known.
    if digest not in allowed and not (name in open_ended and before == len(lines)):
        print(name, "is", digest, "and not", *sorted(allowed))
        bad += 1
print(judged, "files judged")
sys.exit(bad > 0 or judged == 0)

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes files with fsync, replaces and removes some, until it is ended or a write fails.

    synced-writer.py FOLDER LOG SEED

What the files must hold is added to LOG: "writing NAME" before a file takes its name, "removing NAME" before it goes, and
"synced NAME SHA256" after the fsync of file and folder has returned. synced-judge.py reads that.
"""
import hashlib
import os
import random
import sys

folder, log, seed = sys.argv[1], open(sys.argv[2], "a"), int(sys.argv[3])
generator = random.Random(seed)
directory = os.open(folder, os.O_DIRECTORY)
number = 0
try:
    while True:
        number += 1
        name = f"{seed}-{number % 60}" if number % 3 == 0 else f"{seed}-{number}"
        data = generator.randbytes(generator.choice([100, 5000, 70000, 300000]))
        with open(f"{folder}/{name}.new", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        print("writing", name, file=log, flush=True)
        os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
        os.fsync(directory)
        print("synced", name, hashlib.sha256(data).hexdigest(), file=log, flush=True)
        if number % 40 == 0:
            for old in sorted(os.listdir(folder))[:20]:
                print("removing", old, file=log, flush=True)
                os.unlink(f"{folder}/{old}")
            os.fsync(directory)
except OSError as error:
    print("ended by", error, file=sys.stderr)

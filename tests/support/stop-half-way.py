#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""stop-half-way.py INT|KILL FILE COMMAND...: runs the command, which writes metadata into FILE, and sends it the signal when it has begun
and isn't done. Each time that it was quicker it is run again. Ends with 0 once a run was stopped, and prints how it ended."""
import os
import signal
import subprocess
import sys

number = {"INT": signal.SIGINT, "KILL": signal.SIGKILL}[sys.argv[1]]
for attempt in range(200):
    with open(sys.argv[2], "r+b") as file:
        file.write(b"\0" * 4096)
    run = subprocess.Popen(sys.argv[3:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    handle = os.open(sys.argv[2], os.O_RDONLY)
    while run.poll() is None and b"began, and did not end" not in os.pread(handle, 4096, 0):
        pass
    run.send_signal(number)
    message = run.communicate()[1].decode()
    begun = b"began, and did not end" in os.pread(handle, 4096, 0)
    os.close(handle)
    if run.returncode != 0 and begun:
        print(f"{run.returncode} {message}")
        sys.exit()
sys.exit(f"never in time: {message}")

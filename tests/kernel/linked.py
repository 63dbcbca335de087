#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""linked.py OWN PEER COMMAND...

Runs the command with descriptor 9 as one end of a line of packets to another such program, which has the two names the other way round.
They are unix sockets; each end waits for the other.
"""
import os
import socket
import sys
import time

own, peer, *command = sys.argv[1:]
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.bind(own)
limit = time.monotonic() + 60
while True:
    try:
        end.connect(peer)
        break
    except (FileNotFoundError, ConnectionRefusedError):
        if time.monotonic() > limit:
            sys.exit(f"linked.py: nobody came to {peer}")
        time.sleep(0.05)
os.dup2(end.fileno(), 9)
os.execvp(command[0], command)

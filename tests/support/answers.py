#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""answers.py SOCKET: succeeds when an NBD server greets on this unix socket, whatever it serves and asks for."""
import socket
import sys

client = socket.socket(socket.AF_UNIX)
client.settimeout(5)
client.connect(sys.argv[1])
sys.exit(client.recv(8, socket.MSG_WAITALL) != b"NBDMAGIC")

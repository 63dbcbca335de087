#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An NBD client that shares no code with the server: for what the usual clients don't speak (extended headers), and for what they
would never do. Numbers are from the protocol's doc/proto.md.

    raw_client.py SCENARIO SOCKET

prints "ok" when all went as it should."""

import os
import random
import socket
import struct
import sys
import threading

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY = 0x0003E889045565A9
EXTENDED_REQUEST = 0x21E41C71
EXTENDED_REPLY = 0x6E8A278C
REQUEST = 0x25609513
SIMPLE_REPLY = 0x67446698
GO, STRUCTURED, LIST_CONTEXTS, SET_CONTEXTS, EXTENDED = 7, 8, 9, 10, 11
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = (1 << bit for bit in range(6))
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS_EXT, CHUNK_ERROR, CHUNK_ERROR_AT = 0, 1, 2, 6, 0x8001, 0x8002


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(got, expected, what):
    check(got == expected, f"{what}: {got!r} instead of {expected!r}")


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.cookie = 0

    def receive(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(min(count - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, data):
        self.socket.sendall(data)

    def greet(self):
        equal(struct.unpack(">QQH", self.receive(18)), (NBDMAGIC, IHAVEOPT, 3), "greeting")
        self.send(struct.pack(">I", 3))
        return self

    def option(self, number, data=b""):
        """All replies to it, as (type, data)."""
        self.send(struct.pack(">QII", IHAVEOPT, number, len(data)) + data)
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
            equal((magic, option), (OPTION_REPLY, number), "option reply")
            replies.append((kind, self.receive(length)))
            if kind == 1 or kind & 0x80000000:
                return replies

    def contexts(self, name, *queries):
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        for query in queries:
            data += struct.pack(">I", len(query)) + query
        replies = self.option(SET_CONTEXTS, data)
        equal(replies[-1][0], 1, "contexts")
        return {data[4:]: struct.unpack(">I", data[:4])[0] for kind, data in replies if kind == 4}

    def go(self, name=b""):
        replies = self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        equal(replies[-1][0], 1, "go")
        for kind, data in replies:
            if kind == 3 and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:])
        return self

    def closed_by_server(self):
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    # Extended headers.

    def request(self, command, flags=0, offset=0, length=0, payload=None):
        self.cookie += 1
        if payload is not None:
            flags |= PAYLOAD
            length = len(payload)
        self.send(struct.pack(">IHHQQQ", EXTENDED_REQUEST, flags, command, self.cookie, offset, length) + (payload or b""))
        return self.cookie, offset

    def chunks(self, sent):
        """The reply to one request, as (type, payload)."""
        result = []
        while True:
            magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", self.receive(32))
            equal((magic, cookie, offset), (EXTENDED_REPLY,) + sent, "extended reply")
            result.append((kind, self.receive(length)))
            if flags & 1:
                return result

    def call(self, *arguments, **named):
        return self.chunks(self.request(*arguments, **named))

    def expect_done(self, *arguments, **named):
        equal(self.call(*arguments, **named), [(CHUNK_NONE, b"")], f"reply to {arguments} {named}")

    def expect_error(self, error, *arguments, **named):
        (kind, payload), = self.call(*arguments, **named)
        check(kind in (CHUNK_ERROR, CHUNK_ERROR_AT), f"chunk {kind:#x} instead of an error")
        equal(struct.unpack(">I", payload[:4])[0], error, f"error of {arguments} {named}")
        return kind, payload

    def read(self, offset, length, flags=0):
        data = bytearray(b"?" * length)
        seen = 0
        kinds = []
        for kind, payload in self.call(READ, flags, offset, length):
            kinds.append(kind)
            at = struct.unpack(">Q", payload[:8])[0] - offset
            part = payload[8:] if kind == CHUNK_DATA else bytes(struct.unpack(">I", payload[8:])[0])
            check(kind in (CHUNK_DATA, CHUNK_HOLE), f"chunk {kind:#x} in a read")
            data[at:at + len(part)] = part
            seen += len(part)
        equal(seen, length, "bytes of the content chunks")
        return bytes(data), kinds

    # Compact headers with simple replies.

    def compact(self, command, flags=0, offset=0, length=0, payload=b""):
        self.cookie += 1
        self.send(struct.pack(">IHHQQI", REQUEST, flags, command, self.cookie, offset, length) + payload)

    def simple_reply(self, data=0):
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        equal(magic, SIMPLE_REPLY, "simple reply")
        return error, self.receive(data) if error == 0 else b""


def extended(path):
    """Served from a memory device of 8 GiB."""
    client = Client(path).greet()
    equal(client.option(EXTENDED)[0][0], 1, "extended headers")
    equal(client.option(STRUCTURED)[0][0], 0x8000000A, "structured replies afterwards")
    ids = client.contexts(b"", b"base:allocation", b"qemu:allocation-depth")
    equal(set(ids), {b"base:allocation", b"qemu:allocation-depth"}, "contexts")
    client.go()
    size = 8 << 30
    equal(client.size, size, "size")
    check(client.flags & 1 << 12, "BLOCK_STATUS_PAYLOAD")

    five = 5 << 30
    data = os.urandom(10000)
    client.expect_done(WRITE, FUA, five, payload=data)
    got, kinds = client.read(five - 3000, 16000)
    equal(got, bytes(3000) + data + bytes(3000), "what was written")
    check(CHUNK_HOLE in kinds, "no hole chunk for unmapped pages")
    got, kinds = client.read(five - 3000, 16000, DF)
    equal((got, kinds), (bytes(3000) + data + bytes(3000), [CHUNK_DATA]), "an unfragmented read")
    client.expect_done(FLUSH)
    client.expect_done(CACHE, 0, 0, size)

    def status(flags=0, offset=0, length=size, payload=None):
        result = {}
        for kind, chunk in client.call(STATUS, flags, offset, length, payload=payload):
            equal(kind, CHUNK_STATUS_EXT, "status chunk")
            context, count = struct.unpack(">II", chunk[:8])
            result[context] = [struct.unpack(">QQ", chunk[8 + 16 * i:24 + 16 * i]) for i in range(count)]
            equal(len(chunk), 8 + 16 * count, "length of a status chunk")
        return result

    pages = 12288
    all_of_it = status()
    equal(all_of_it[ids[b"base:allocation"]], [(five, 3), (pages, 0), (size - five - pages, 3)], "base:allocation")
    equal(all_of_it[ids[b"qemu:allocation-depth"]], [(five, 0), (pages, 1), (size - five - pages, 0)], "qemu:allocation-depth")
    equal(status(REQ_ONE, 1 << 30, size - (1 << 30))[ids[b"base:allocation"]], [(five - (1 << 30), 3)], "one extent")
    depth = ids[b"qemu:allocation-depth"]
    equal(status(0, five + 5, payload=struct.pack(">QI", 100, depth)), {depth: [(100, 1)]}, "one context")

    client.expect_error(22, STATUS, 0, 0, payload=struct.pack(">QII", 100, depth, depth))
    client.expect_error(22, STATUS, 0, 0, payload=struct.pack(">QI", 100, 1 << 31))
    client.expect_error(22, STATUS, 0, 0, payload=bytes(100000))
    client.expect_error(22, WRITE, 0, 0, 4096)
    client.expect_error(22, READ, 0, 0, payload=bytes(4096))
    client.expect_error(22, FLUSH, 0, 0, 1)
    client.expect_error(22, 99)
    client.expect_error(28, WRITE, 0, size - 1, payload=b"ab")
    client.expect_error(75, READ, 0, 0, five)
    kind, payload = client.expect_error(22, READ, 0, size - 10, 20)
    equal((kind, struct.unpack(">Q", payload[-8:])[0]), (CHUNK_ERROR_AT, size), "where a read left the export")

    client.expect_done(ZEROES, 0, five, 5000)
    equal(client.read(five, 10000)[0], bytes(5000) + data[5000:], "zeroed bytes")
    client.expect_done(TRIM, 0, 1 << 30, five)
    equal(client.read(five, 10000)[0], bytes(10000), "trimmed bytes")
    equal(client.call(READ, 0, 0, 0), [(CHUNK_NONE, b"")], "a read of nothing")
    client.request(DISC)
    check(client.closed_by_server(), "disconnect")


def hostile(path):
    """Others misbehave while one client works. Served from a memory device of at least 64 MiB; handshakes end after a second."""
    random.seed(1)
    others = []

    for _ in range(8):  # ask for much and read nothing
        client = Client(path).greet().go()
        client.send(b"".join(struct.pack(">IHHQQI", REQUEST, 0, READ, i, i % 64 << 17, 1 << 17) for i in range(400)))
        others.append(client)
    for _ in range(8):  # write without reading the replies
        client = Client(path).greet().go()
        client.socket.setblocking(False)
        try:
            for _ in range(100000):
                client.compact(FLUSH)
        except BlockingIOError:
            pass
        others.append(client)
    for _ in range(8):  # stop in the middle of a payload
        client = Client(path).greet().go()
        client.compact(WRITE, 0, 32 << 20, 32 << 20, bytes(1000))
        others.append(client)
    for _ in range(900):
        others.append(Client(path))

    def garble():
        for length in (1, 4, 17, 300, 70000):
            client = Client(path)
            client.receive(18)
            try:
                client.send(random.randbytes(length))
                client.socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, OSError):
                pass
            check(client.closed_by_server(), "garbage")
            client = Client(path).greet().go()
            try:
                client.send(random.randbytes(length + 28))
                client.socket.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, OSError):
                pass
            check(client.closed_by_server(), "garbage in transmission")
        client = Client(path).greet()
        client.send(struct.pack(">QII", IHAVEOPT, GO, 0xFFFFFFFF))
        check(client.closed_by_server(), "an option of 4 GiB")
        client = Client(path).greet().go()
        client.send(struct.pack(">IHHQQI", REQUEST, 0, WRITE, 1, 0, 0xFFFFFFFF))
        check(client.closed_by_server(), "a payload of 4 GiB")

    failures = []

    def garble_safely():
        try:
            garble()
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)

    thread = threading.Thread(target=garble_safely)
    thread.start()
    good = Client(path).greet().go()
    for turn in range(300):
        data = random.randbytes(16384)
        offset = turn * 16384
        good.compact(WRITE, 0, offset, len(data), data)
        equal(good.simple_reply()[0], 0, "a write beside hostile clients")
        good.compact(READ, 0, offset, len(data))
        equal(good.simple_reply(len(data)), (0, data), "a read beside hostile clients")
    thread.join()
    if failures:
        raise failures[0]
    # Who never said a word is put out.
    check(others[-1].closed_by_server(), "a handshake without end")
    good.compact(DISC)
    check(good.closed_by_server(), "disconnect")


def half_closed(path):
    """A client that says all it has to say, closes its side and then reads the replies."""
    client = Client(path).greet().go()
    for i in range(50):
        client.compact(WRITE, 0, i * 65536, 65536, bytes([i + 1]) * 65536)
    for i in range(50):
        client.compact(READ, 0, i * 65536, 65536)
    client.compact(FLUSH)
    client.send(struct.pack(">IHHQ", REQUEST, 0, READ, 1))  # cut off
    client.socket.shutdown(socket.SHUT_WR)
    replies = 0
    try:
        while True:
            magic, error, cookie = struct.unpack(">IIQ", client.receive(16))
            equal((magic, error), (SIMPLE_REPLY, 0), "reply")
            if 50 < cookie <= 100:
                client.receive(65536)
            replies += 1
    except EOFError:
        pass
    equal(replies, 101, "replies")


def bytewise(path):
    """Everything in single bytes, and replies too are taken so."""
    client = Client(path)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    send, receive = client.socket.sendall, client.socket.recv
    client.send = lambda data: [send(data[i:i + 1]) for i in range(len(data))]
    client.greet().go()
    data = random.randbytes(3000)
    client.compact(WRITE, 0, 777, len(data), data)
    equal(client.simple_reply()[0], 0, "write")
    client.compact(WRITE, 16, 0, 100, bytes(100))  # refused, its payload skipped
    equal(client.simple_reply()[0], 22, "a bad flag")
    client.compact(READ, 0, 777, len(data))
    equal(client.simple_reply(len(data)), (0, data), "read")


if __name__ == "__main__":
    {"extended": extended, "hostile": hostile, "half_closed": half_closed, "bytewise": bytewise}[sys.argv[1]](sys.argv[2])
    print("ok")

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes deterministic data at deterministic places of a device, file or NBD export.

    scatter.py TARGET --seed N [--count N]

TARGET is a path or an NBD URI. The same seed, count and size give the same bytes anywhere, so that two sides can write the
same thing and a failure can be repeated. Pieces are 512 bytes to 256 KiB long, unaligned to any chunk, and may overlap; all
is flushed at the end.
"""
import argparse
import os
import random

SECTOR = 512


class Path:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)

    def write(self, data, offset):
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    def flush(self):
        os.fsync(self.fd)
        os.close(self.fd)


class Export:
    def __init__(self, uri):
        import nbd

        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.size = self.handle.get_size()

    def write(self, data, offset):
        self.handle.pwrite(data, offset)

    def flush(self):
        self.handle.flush()
        self.handle.shutdown()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=40)
    arguments = parser.parse_args()

    target = Export(arguments.target) if "://" in arguments.target else Path(arguments.target)
    generator = random.Random(arguments.seed)
    sectors = target.size // SECTOR
    for _ in range(arguments.count):
        length = min(generator.choice([1, 8, 8, 24, 128, 512]), sectors)
        start = generator.randrange(sectors - length + 1)
        target.write(generator.randbytes(length * SECTOR), start * SECTOR)
    target.flush()


main()

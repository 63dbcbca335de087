#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Changes a pool's metadata in a file so that a check has something to find: set-count.py FILE data|metadata BLOCK COUNT sets what a
space map's bitmap says of a block (0, 1 or 2; the totals stay); set-count.py FILE flag sets needs_check. Layout: dm-space-map-common.h,
dm-thin-metadata.c."""
import struct
import sys

BLOCK, ENTRIES = 4096, 16320
SUPERBLOCK_SALT, BITMAP_SALT = 160774, 240779


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def read(file, block):
    file.seek(block * BLOCK)
    return bytearray(file.read(BLOCK))


def write(file, block, data, salt):
    struct.pack_into("<I", data, 0, crc32c(data[4:]) ^ salt)
    file.seek(block * BLOCK)
    file.write(data)


def bitmap_of(file, superblock, kind, index):
    root = struct.unpack_from("<Q", superblock, (64 if kind == "data" else 192) + 16)[0]
    node = read(file, root)
    if kind == "metadata":
        return struct.unpack_from("<Q", node, 16 + 16 * index)[0]
    assert struct.unpack_from("<I", node, 4)[0] == 2, "the index is one leaf"
    entries = struct.unpack_from("<I", node, 20)[0]
    return struct.unpack_from("<Q", node, 32 + 8 * entries + 16 * index)[0]


with open(sys.argv[1], "r+b") as metadata:
    superblock = read(metadata, 0)
    if sys.argv[2] == "flag":
        struct.pack_into("<I", superblock, 4, struct.unpack_from("<I", superblock, 4)[0] | 1)
        write(metadata, 0, superblock, SUPERBLOCK_SALT)
        sys.exit()
    kind, block, count = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    location = bitmap_of(metadata, superblock, kind, block // ENTRIES)
    bitmap = read(metadata, location)
    place, shift = 16 + block % ENTRIES // 32 * 8, block % 32 * 2
    word = struct.unpack_from("<Q", bitmap, place)[0] & ~(3 << shift)
    struct.pack_into("<Q", bitmap, place, word | {0: 0, 1: 2, 2: 1}[count] << shift)
    write(metadata, location, bitmap, BITMAP_SALT)

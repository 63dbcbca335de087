#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Where a pool's metadata has a node: find-node.py METADATA devices|details, or find-node.py METADATA inner|leaf VOLUME [NUMBER], which
is the NUMBER-th (from 0) of that volume's tree, in the order of their keys. Prints the metadata block. Layout: dm-thin-metadata.c,
dm-btree-internal.h."""
import struct
import sys

BLOCK, INNER = 4096, 1


def read(file, block):
    file.seek(block * BLOCK)
    return file.read(BLOCK)


def node(file, block):
    """Whether it is an inner node, and its entries: (key, the first 8 bytes of the value)."""
    data = read(file, block)
    flags, entries, room, size = struct.unpack_from("<I", data, 4)[0], *struct.unpack_from("<III", data, 16)
    keys = struct.unpack_from(f"<{entries}Q", data, 32)
    return flags & INNER, [(key, struct.unpack_from("<Q", data, 32 + 8 * room + size * index)[0]) for index, key in enumerate(keys)]


def walk(file, block):
    """(is inner, block) of all nodes below and including this one."""
    inner, entries = node(file, block)
    yield inner, block
    for _, child in entries if inner else []:
        yield from walk(file, child)


with open(sys.argv[1], "rb") as metadata:
    devices, details = struct.unpack_from("<QQ", read(metadata, 0), 320)
    if sys.argv[2] in ("devices", "details"):
        print(devices if sys.argv[2] == "devices" else details)
        sys.exit()
    roots = dict(entry for inner, block in walk(metadata, devices) if not inner for entry in node(metadata, block)[1])
    wanted = sys.argv[2] == "inner"
    blocks = [block for inner, block in walk(metadata, roots[int(sys.argv[3])]) if bool(inner) == wanted]
    print(blocks[int(sys.argv[4]) if len(sys.argv) > 4 else 0])

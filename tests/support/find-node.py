#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Where a pool's metadata has a node: find-node.py METADATA WHAT prints the metadata block. WHAT is the root of a tree: devices,
details, data-map, metadata-map (the indexes of the space maps); or inner VOLUME [NUMBER], leaf VOLUME [NUMBER]: the NUMBER-th (from 0) of that
volume's tree, in the order of their keys. entries VOLUME [NUMBER] prints how many entries that leaf has. Layout: dm-thin-metadata.c, dm-btree-internal.h, dm-space-map-common.h."""
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
    superblock = read(metadata, 0)
    tops = {"devices": 320, "details": 328, "data-map": 80, "metadata-map": 208}
    if sys.argv[2] in tops:
        print(struct.unpack_from("<Q", superblock, tops[sys.argv[2]])[0])
        sys.exit()
    devices = struct.unpack_from("<Q", superblock, tops["devices"])[0]
    roots = dict(entry for inner, block in walk(metadata, devices) if not inner for entry in node(metadata, block)[1])
    wanted = sys.argv[2] == "inner"
    blocks = [block for inner, block in walk(metadata, roots[int(sys.argv[3])]) if bool(inner) == wanted]
    found = blocks[int(sys.argv[4]) if len(sys.argv) > 4 else 0]
    print(len(node(metadata, found)[1]) if sys.argv[2] == "entries" else found)

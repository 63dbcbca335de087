# SPDX-License-Identifier: Apache-2.0
"""Groups that would take too long to fill by use: mappings by thin_restore, and LVM2 metadata written byte by byte.

The formats are docs/format.md's. thin_restore is what writes the mappings, so that these groups owe nothing to the engine that is measured.
"""

import re
import struct
import zlib

SECTOR = 512
METADATA_START = 4096  # of the metadata area, as pvcreate lays it


def section(text, name):
    """(begin, end) of `name { ... }` in LVM2's text, braces matched."""
    found = re.search(rf"^\s*{re.escape(name)} \{{", text, re.MULTILINE)
    if not found:
        raise ValueError(f"no section {name}")
    depth, at = 1, found.end()
    while depth:
        at = re.compile(r"[{}]").search(text, at).end()
        depth += 1 if text[at - 1] == "{" else -1
    return found.start(), at


def value(text, key):
    return int(re.search(rf"\b{key} = (\d+)", text).group(1))


class PoolPlace:
    """Where the one pool of a group on one physical volume lies in its image. All in bytes but for `blocks`."""

    def __init__(self, text, pool="pool"):
        def lv(name):
            begin, end = section(text, name)
            return text[begin:end]
        extent = value(text, "extent_size") * SECTOR
        data, metadata, self.pool = lv(f"{pool}_tdata"), lv(f"{pool}_tmeta"), lv(pool)
        if value(metadata, "segment_count") != 1:
            raise ValueError("the pool's metadata lies in several pieces")
        first = int(re.search(r'stripes = \[\s*"pv0", (\d+)', metadata).group(1))
        self.offset = value(text, "pe_start") * SECTOR + first * extent
        self.size = value(metadata, "extent_count") * extent
        self.chunk_sectors = value(self.pool, "chunk_size")
        self.blocks = value(data, "extent_count") * extent // SECTOR // self.chunk_sectors
        self.transaction = value(self.pool, "transaction_id")


def restore_mappings(bench, image, place, devices):
    """Replaces a pool's metadata. `devices`: (id, transaction, number of mappings, iterable of (virtual, data, length)) each."""
    xml, metadata = bench.path(".xml"), bench.path(".tmeta.img")
    with open(xml, "w", encoding="ascii") as file:
        file.write(f'<superblock uuid="" time="1" transaction="{place.transaction}" flags="0" version="2" '
                   f'data_block_size="{place.chunk_sectors}" nr_data_blocks="{place.blocks}">\n')
        for device, transaction, mapped, ranges in devices:
            file.write(f'<device dev_id="{device}" mapped_blocks="{mapped}" transaction="{transaction}" creation_time="0" snap_time="1">\n')
            for virtual, data, length in ranges:
                file.write(f'<range_mapping origin_begin="{virtual}" data_begin="{data}" length="{length}" time="0"/>\n')
            file.write("</device>\n")
        file.write("</superblock>\n")
    with open(metadata, "wb") as file:
        file.truncate(place.size)
    bench.processes.run([bench.programs.need("thin_restore"), "-q", "-i", xml, "-o", metadata])
    with open(metadata, "rb") as source, open(image, "r+b") as target:
        target.seek(place.offset)
        while piece := source.read(1 << 20):
            target.write(piece)
    xml.unlink()
    metadata.unlink()


def lvm_crc(data):
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def write_group(image, text, data_start, size):
    """Makes an image of one physical volume with a metadata area up to `data_start`, and `text` in it."""
    uuid = re.search(r'pv0 \{\s*id = "([^"]+)"', text).group(1).replace("-", "").encode()
    area_size = data_start - METADATA_START
    body = text.encode() + b"\0"
    pv_header = uuid + struct.pack("<Q QQ QQ QQ QQ", size, data_start, 0, 0, 0, METADATA_START, area_size, 0, 0)
    pv_header += struct.pack("<II QQ", 2, 1, 0, 0)
    label = struct.pack("<I8s", 32, b"LVM2 001") + pv_header
    label = label.ljust(SECTOR - 20, b"\0")
    label = b"LABELONE" + struct.pack("<QI", 1, lvm_crc(label)) + label
    header = b" LVM2 x[5A%r0N*>" + struct.pack("<IQQ", 1, METADATA_START, area_size)
    header += struct.pack("<QQII", SECTOR, len(body), lvm_crc(body), 0)
    header = header.ljust(SECTOR - 4, b"\0")
    header = struct.pack("<I", lvm_crc(header)) + header
    with open(image, "wb") as file:
        file.truncate(size)
        file.seek(SECTOR)
        file.write(label)
        file.seek(METADATA_START)
        file.write(header + body)

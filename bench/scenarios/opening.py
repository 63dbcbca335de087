# SPDX-License-Identifier: Apache-2.0
"""Opening a group whose pool has a full metadata device of 1 GiB: `lamella list`, and `lamella serve` until it greets a client."""

import statistics
import time

from fixtures import PoolPlace, restore_mappings
from harness import GiB, MiB, TiB
from servers import Lamella

CHUNK = 65536


def run(bench):
    size = bench.size(2 * TiB, 64 * GiB)
    metadata = bench.size(GiB, 16 * MiB)
    bench.need_room(3 * metadata)
    group = Lamella(bench, size, "--metadata-size", f"{metadata}b")
    group.create("web", size)
    place = PoolPlace(group.command("group", "backup", group.image))
    mapped = min(place.blocks, int(metadata // 4096 * 114.5))  # thin_restore leaves leaves half full
    restore_mappings(bench, group.image, place, [(1, 0, mapped, [(0, 0, mapped)])])
    volumes = {v["name"]: v for v in group.list()["volumes"]}
    pool = volumes["pool"]
    full = 100 * pool["metadata_used"] / pool["metadata_size"]

    def timed(work):
        seconds = []
        for _ in range(bench.rounds):
            begin = time.monotonic()
            undo = work()
            seconds.append(time.monotonic() - begin)
            if undo:
                undo()
        return statistics.median(seconds)

    note = f"metadata of {metadata / MiB:.0f} MiB, {full:.0f} % full, {mapped} mappings"
    bench.bound("lamella list", timed(lambda: group.list() and None), 1.0, unit="s", note=note)
    bench.bound("lamella serve until it greets", timed(lambda: group.serve().stop), 1.0, unit="s", note=note)

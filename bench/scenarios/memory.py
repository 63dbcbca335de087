# SPDX-License-Identifier: Apache-2.0
"""Resident memory of `lamella serve`, and how it grows with what is mapped.

The mappings of a volume, scattered over the pool, are made by thin_restore; the data is a hole. Then 4 KiB of every chunk are read, so
that the server has met each mapping.
"""

import random

from fixtures import PoolPlace, restore_mappings
from harness import GiB, MiB, TiB, resident
from servers import Lamella

CHUNK = 65536


def run(bench):
    size = bench.size(64 * GiB, GiB)
    run_of_chunks = 16
    group = Lamella(bench, size + 2 * GiB)
    group.create("web", size)
    place = PoolPlace(group.command("group", "backup", group.image))
    chunks = size // CHUNK
    order = list(range(0, chunks, run_of_chunks))
    random.Random(1).shuffle(order)
    mappings = ((index * run_of_chunks, data, run_of_chunks) for index, data in enumerate(order))
    restore_mappings(bench, group.image, place, [(1, 0, chunks, mappings)])

    server = group.serve()
    bench.load(server.socket, "web", requests=1)
    before, _ = resident(server.pid)
    bench.load(server.socket, "web", pattern="sequential", stride=CHUNK, requests=chunks, depth=64)
    after, most = resident(server.pid)
    slope = (after - before) * TiB / size
    bench.bound(f"resident at most, {size / GiB:.0f} GiB mapped in 64 KiB chunks", most / MiB, 64 + 160 * size / TiB, unit="MiB",
                note=f"{before / MiB:.1f} MiB at the start, {after / MiB:.1f} MiB once all mappings are known")
    bench.bound("growth for each TiB mapped", slope / MiB, 160, unit="MiB")

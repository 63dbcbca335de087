# SPDX-License-Identifier: Apache-2.0
"""Resident memory of `lamella serve`, and how it grows with what is mapped.

The mappings of a volume, scattered over the pool, are made by thin_restore; the data is a hole. Then the server reads 4 KiB of every
sixteenth chunk, so that it has met every leaf of the mappings: first of one half of the volume, then of the other. Caches of a fixed
size are full after the first half, so that what the second adds is what mappings cost.
"""

import random

from fixtures import PoolPlace, restore_mappings
from harness import GiB, MiB, TiB, resident
from servers import Lamella

CHUNK = 65536
TOGETHER = 16  # chunks that lie next to each other


def run(bench):
    size = bench.size(256 * GiB, GiB)
    group = Lamella(bench, size + 2 * GiB)
    group.create("web", size)
    place = PoolPlace(group.command("group", "backup", group.image))
    chunks = size // CHUNK
    order = list(range(0, chunks, TOGETHER))
    random.Random(1).shuffle(order)
    mappings = ((index * TOGETHER, data, TOGETHER) for index, data in enumerate(order))
    restore_mappings(bench, group.image, place, [(1, 0, chunks, mappings)])

    server = group.serve()
    client = server.hold("web")
    steps = []
    for offset, span in ((0, 4096), (0, size // 2), (size // 2, size // 2)):
        bench.load(server.socket, "web", pattern="sequential", stride=TOGETHER * CHUNK, offset=offset, span=span, depth=64,
                   requests=max(1, span // (TOGETHER * CHUNK)))
        steps.append(resident(server.pid)[0])
    most = resident(server.pid)[1]
    client.close()
    bench.bound(f"resident at most, {size / GiB:.0f} GiB mapped in 64 KiB chunks", most / MiB, 64 + 160 * size / TiB, unit="MiB",
                note=", ".join(f"{step / MiB:.1f}" for step in steps) + " MiB with nothing, a half, all of the mappings met")
    bench.bound("growth for each TiB mapped", (steps[2] - steps[1]) / MiB * TiB / (size // 2), 160, unit="MiB")

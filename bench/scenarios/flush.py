# SPDX-License-Identifier: Apache-2.0
"""Sixteen writers that flush each write, beside one: what a commit for many is worth. qemu-nbd on a raw file is shown for scale.

Random 4 KiB writes of mapped blocks, and first writes to an empty volume, where each flush commits metadata.
"""

from harness import GiB, MiB
from servers import Lamella, qemu_nbd, raw_image


def run(bench):
    size = bench.size(GiB, 64 * MiB)
    bench.need_room(40 * GiB)
    peer = qemu_nbd(bench, raw_image(bench, size), "raw")
    group = Lamella(bench, 20 * GiB)
    group.create("web", size)
    group.create("empty", 16 * GiB)
    server = group.serve()
    server.fill("web", size)

    def writers(target, export, jobs, span):
        return target.fio(export, "randwrite", depth=1, jobs=jobs, extra=[f"--size={span}", "--fsync=1", "--thread"])

    seeds = iter(range(1, 10000))

    def first_writers(jobs):
        # Elsewhere each time.
        writes = bench.size(4096, 128)
        return server.fio("empty", "randwrite", depth=1, jobs=jobs, seconds=0,
                          extra=[f"--size={16 * GiB}", f"--io_size={writes // jobs * 4096}", f"--randseed={next(seeds)}", "--fsync=1",
                                 "--norandommap", "--thread"])

    bench.compare("mapped: write and flush, 4 KiB", {
        "lamella, 16 writers": lambda: writers(server, "web", 16, size),
        "lamella, 1 writer": lambda: writers(server, "web", 1, size),
    }, target=3.0)
    bench.compare("first touch: write and flush, 4 KiB", {
        "lamella, 16 writers": lambda: first_writers(16),
        "lamella, 1 writer": lambda: first_writers(1),
    }, target=3.0)
    bench.compare("for scale: write and flush, 4 KiB", {
        "qemu-nbd, 16 writers": lambda: writers(peer, "disk", 16, size),
        "qemu-nbd, 1 writer": lambda: writers(peer, "disk", 1, size),
    })

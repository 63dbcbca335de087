# SPDX-License-Identifier: Apache-2.0
"""Random 4 KiB reads and writes of what is mapped already, beside qemu-nbd on a raw file of the same size."""

from harness import GiB, MiB
from servers import Lamella, qemu_nbd, raw_image


def run(bench):
    size = bench.size(2 * GiB, 64 * MiB)
    bench.need_room(2 * size)
    peer = qemu_nbd(bench, raw_image(bench, size), "raw")
    group = Lamella(bench, size + GiB)
    group.create("web", size)
    ours = group.serve()
    ours.fill("web", size)
    for depth in (32, 1):
        for rw in ("randread", "randwrite"):
            bench.compare(f"{rw}, 4 KiB, depth {depth}", {
                "lamella, thin volume": lambda: ours.fio("web", rw, depth=depth, extra=[f"--size={size}"]),
                "qemu-nbd, raw file": lambda: peer.fio("disk", rw, depth=depth, extra=[f"--size={size}"]),
            }, target=1.3 if depth == 32 else None)

# SPDX-License-Identifier: Apache-2.0
"""Sequential 128 KiB reads and writes, beside the raw file itself through fio's io_uring with O_DIRECT."""

from harness import GiB, MiB
from servers import Lamella, raw_image


def run(bench):
    size = bench.size(2 * GiB, 64 * MiB)
    bench.need_room(2 * size)
    raw = ["--ioengine=io_uring", f"--filename={raw_image(bench, size)}", "--direct=1"]
    group = Lamella(bench, size + GiB)
    group.create("web", size)
    ours = group.serve()
    ours.fill("web", size)
    for rw in ("read", "write"):
        bench.compare(f"{rw}, 128 KiB in order, depth 32", {
            "lamella, thin volume": lambda: ours.fio("web", rw, bs="128k", extra=[f"--size={size}"]),
            "fio io_uring, raw file": lambda: bench.fio(raw, rw, bs="128k", extra=[f"--size={size}"]),
        }, target=0.9)

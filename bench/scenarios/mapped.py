# SPDX-License-Identifier: Apache-2.0
"""Random 4 KiB reads and writes of what is mapped already, beside qemu-nbd on a raw file of the same size.

At depth 32 two more sides bound what any server could show here: the raw file through fio's io_uring with no server at all, which is
what the disk gives, and a server whose device does nothing, which is what the client takes.
"""

from harness import GiB, MiB
from servers import Lamella, null_server, qemu_nbd, raw_image


def run(bench):
    size = bench.size(2 * GiB, 64 * MiB)
    bench.need_room(3 * size)
    image = raw_image(bench, size)
    raw = ["--ioengine=io_uring", f"--filename={raw_image(bench, size)}", "--direct=1"]
    peer = qemu_nbd(bench, image, "raw")
    null = null_server(bench)
    group = Lamella(bench, size + GiB)
    group.create("web", size)
    ours = group.serve()
    ours.fill("web", size)
    for depth in (32, 1):
        for rw in ("randread", "randwrite"):
            sides = {
                "lamella, thin volume": lambda: ours.fio("web", rw, depth=depth, extra=[f"--size={size}"]),
                "qemu-nbd, raw file": lambda: peer.fio("disk", rw, depth=depth, extra=[f"--size={size}"]),
            }
            if depth == 32:
                sides["for scale: no server"] = lambda: bench.fio(raw, rw, depth=depth, extra=[f"--size={size}"])
                sides["for scale: no disk"] = lambda: null.fio("null", rw, depth=depth, extra=[f"--size={min(size, GiB)}"])
            bench.compare(f"{rw}, 4 KiB, depth {depth}", sides, target=1.3 if depth == 32 else None)

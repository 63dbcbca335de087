# SPDX-License-Identifier: Apache-2.0
"""Random 4 KiB writes that break sharing, after a snapshot, beside qemu-nbd on a qcow2 image over a full backing file.

Before each run everything is shared again: by a new snapshot here, by a new overlay there. The offsets are the same.
"""

from harness import GiB
from servers import Lamella, qcow2_image, qemu_nbd, raw_image


def run(bench):
    writes = bench.size(32768, 512)
    size = writes * 2 * 65536  # two chunks for each write: eight writes of ten are the first to theirs
    bench.need_room((2 + bench.rounds) * size)
    workload = {"seconds": 0, "extra": [f"--size={size}", f"--io_size={writes * 4096}"]}

    group = Lamella(bench, (1 + bench.rounds) * size + GiB)
    group.create("web", size)
    server = group.serve()
    server.fill("web", size)
    backing = raw_image(bench, size)
    snapshots = iter(range(1000))

    def ours():
        group.snapshot("web", f"s{next(snapshots)}")
        return server.fio("web", "randwrite", **workload)

    def peer():
        image = qcow2_image(bench, backing=backing)
        overlay = qemu_nbd(bench, image, "qcow2")
        sample = overlay.fio("disk", "randwrite", **workload)
        overlay.stop()
        bench.remove(image)
        return sample

    bench.compare("breaking of sharing: randwrite, 4 KiB, depth 32",
                  {"lamella, after a snapshot": ours, "qemu-nbd, qcow2 over raw": peer}, target=1.2)

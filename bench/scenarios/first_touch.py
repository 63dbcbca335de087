# SPDX-License-Identifier: Apache-2.0
"""Random 4 KiB writes to an empty volume, beside qemu-nbd on an empty qcow2 image with clusters of the same 64 KiB.

Each run has a fresh image and the same offsets, over a range so large (four chunks for each write) that nearly nine writes of ten are
the first to their chunk.
"""

from harness import GiB
from servers import Lamella, qcow2_image, qemu_nbd


def run(bench):
    writes = bench.size(32768, 1024)
    size = writes * 4 * 65536  # four chunks for each write
    bench.need_room(2 * size)
    workload = {"seconds": 0, "extra": [f"--size={size}", f"--io_size={writes * 4096}"]}

    def ours():
        group = Lamella(bench, size + GiB)
        group.create("web", size)
        sample = group.serve().fio("web", "randwrite", **workload)
        group.remove()
        return sample

    def peer():
        image = qcow2_image(bench, size)
        server = qemu_nbd(bench, image, "qcow2")
        sample = server.fio("disk", "randwrite", **workload)
        server.stop()
        bench.remove(image)
        return sample

    bench.compare("first touch: randwrite, 4 KiB, depth 32", {"lamella, empty volume": ours, "qemu-nbd, empty qcow2": peer}, target=2.5)

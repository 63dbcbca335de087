# SPDX-License-Identifier: Apache-2.0
"""A volume that 500 snapshots were taken of, beside one with none: random reads and writes of blocks that are its own.

While the snapshots are taken, writes go on, so that each differs from the one before. Afterwards the whole volume is written once more.
"""

from harness import GiB, MiB
from servers import Lamella


def run(bench):
    size = bench.size(GiB, 64 * MiB)
    snapshots = bench.size(500, 5)
    bench.need_room(6 * size)
    group = Lamella(bench, 16 * size + GiB, "--metadata-size", "256m")
    for name in ("deep", "flat"):
        group.create(name, size)
    server = group.serve()
    for name in ("deep", "flat"):
        server.fill(name, size)
    writer = bench.processes.start(bench.load_arguments(server.socket, "deep", op="write", depth=1, span=size // 4, seconds=3600))
    for number in range(snapshots):
        group.snapshot("deep", f"deep-s{number}")
    bench.processes.stop(writer)
    for name in ("deep", "flat"):
        server.fill(name, size)
    for rw in ("randread", "randwrite"):
        bench.compare(f"{rw}, 4 KiB, depth 32", {
            f"lamella, {snapshots} snapshots": lambda: server.fio("deep", rw, extra=[f"--size={size}"]),
            "lamella, no snapshot": lambda: server.fio("flat", rw, extra=[f"--size={size}"]),
        }, target=0.97, rounds=None if bench.quick else 3 * bench.rounds)  # a few hundredths are to be told apart

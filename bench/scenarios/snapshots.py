# SPDX-License-Identifier: Apache-2.0
"""Classic snapshots: 4 KiB random writes to an origin, each to a chunk that its snapshots lack and then again; to a snapshot; a merge.

By the cow floor alone, on files written beforehand, 32 writes at a time; beside each the same writes to the file itself, in the same run.
A first write waits for two flushes of the disk, so that its ratio tells how slow these are.
"""

import statistics
import subprocess

from harness import MiB

KIB = 1024


def run(bench):
    program = bench.programs.need("bench_cow_load")
    size = bench.size(512 * MiB, 32 * MiB)
    room = 2 * size
    most = 8
    bench.need_room(size + most * room)

    def made(name, length):
        path = bench.path(name)
        with open(path, "wb") as file:
            for _ in range(length // MiB):
                file.write(bytes(MiB))
        return path

    origin = made(".origin", size)
    stores = [made(f".store{number}", room) for number in range(most)]

    def measure(what, chunk, count):
        writes = min(size // chunk, bench.size(8192, 256))
        found = {}
        for _ in range(bench.rounds):
            arguments = [program, what, origin, chunk // 512, writes, 32, *stores[:count]]
            printed = subprocess.run([str(a) for a in arguments], check=True, capture_output=True, text=True).stdout
            for line in printed.splitlines():
                phase, figure = line.split()
                found.setdefault(phase, []).append(float(figure))
        return {phase: statistics.median(figures) for phase, figures in found.items()}

    for chunk in (4 * KIB, 16 * KIB, 64 * KIB):
        for count in (0, 1, 2, 8):
            got = measure("touch", chunk, count)
            bench.note(f"origin, chunk {chunk // KIB} KiB, {count} snapshots",
                       f"first {got['first'] / got['raw']:.2f} x raw, second {got['second'] / got['raw']:.2f} x raw ({got['raw']:.0f}/s)")
    got = measure("snapshot", 4 * KIB, 1)
    bench.note("snapshot, chunk 4 KiB", f"first {got['first'] / got['raw']:.2f} x raw, second {got['second'] / got['raw']:.2f} x raw")
    for chunk in (4 * KIB, 64 * KIB):
        got = measure("merge", chunk, 1)
        bench.note(f"merge of scattered chunks of {chunk // KIB} KiB",
                   f"{got['merge'] / got['copy']:.2f} x a copy from end to end ({got['copy'] / MiB:.0f} MiB/s)")

# SPDX-License-Identifier: Apache-2.0
"""Classic snapshots: 4 KiB random writes to an origin, each to a chunk that its snapshots lack and then again; to a snapshot; a merge.

By the cow floor alone, on one file written beforehand, 32 writes at a time; beside each the same writes to the file itself, and the
floor: a loop that does no more than a copy must, in the order that it must (read, copy, flush, note it, flush, write), all of a group at
once. A first write can't be faster than that on the disk at hand; what that is of a plain write, the disk alone says.
"""

from harness import MiB, Sample
from servers import raw_image

KIB = 1024
DEPTH = 32
MOST = 8


def run(bench):
    program = bench.programs.need("bench_snapshot_load")
    origin = bench.size(512 * MiB, 16 * MiB)
    room = origin + origin // 16 + MiB  # of each store: all chunks, and the exceptions
    bench.need_room(origin + MOST * room)
    image = raw_image(bench, origin + MOST * room)

    def measure(what, chunk, stores):
        writes = min(origin // chunk, bench.size(8192, 256))
        samples = {}
        for _ in range(bench.rounds):
            printed = bench.processes.run([program, what, image, origin, chunk // 512, writes, DEPTH, stores])
            for line in printed.splitlines():
                phase, figure = line.split()
                samples.setdefault(phase, []).append(Sample(float(figure)))
        return samples

    def pair(samples, ours, peer, label):
        return {label: samples[ours], PEERS[peer]: samples[peer]}

    for chunk in (4 * KIB, 16 * KIB, 64 * KIB):
        for stores in (0, 1, 2, MOST):
            samples = measure("touch", chunk, stores)
            place = f"origin with {stores} snapshots, chunk {chunk // KIB} KiB"
            if stores == 0:
                bench.judge(place, pair(samples, "second", "raw", "write"), target=0.9)
                continue
            bench.judge(f"{place}: first write", pair(samples, "first", "raw", "first write"),
                        target=0.4 if (chunk, stores) == (4 * KIB, 1) else None)
            bench.judge(f"{place}: first write, beside the floor", pair(samples, "first", "floor", "first write"), target=0.75)
            bench.judge(f"{place}: second write", pair(samples, "second", "raw", "second write"), target=0.9)
    samples = measure("snapshot", 4 * KIB, 1)
    bench.judge("snapshot, chunk 4 KiB: first write", pair(samples, "first", "raw", "first write"), target=0.5)
    bench.judge("snapshot, chunk 4 KiB: second write", pair(samples, "second", "raw", "second write"))
    for chunk in (4 * KIB, 64 * KIB):
        samples = {phase: [Sample(each.value / MiB) for each in found] for phase, found in measure("merge", chunk, 1).items()}
        bench.judge(f"merge of scattered chunks of {chunk // KIB} KiB", pair(samples, "merge", "copy", "merge"), target=0.5, unit="MiB/s")


PEERS = {"raw": "the file itself", "floor": "the floor", "copy": "copy, from end to end"}

# SPDX-License-Identifier: Apache-2.0
"""Snapshots: 4 KiB random writes to chunks that classic or thin snapshots hold, and then again; to a snapshot; a merge; a real kernel's.

By the floors alone, on one file written beforehand, 32 writes at a time and a flush at the end; beside each the same writes to the file
itself. For classic snapshots also beside the floor: a loop that does no more than a copy must, in the order that it must (read, copy,
flush, note it, flush, write), all of a group at once; what that is of a plain write, the disk alone says. Above is the ceiling: the same
I/O in no order at all, which no way to make copies can exceed. A real kernel's snapshots run in user-mode Linux, and ours in there beside
them: it makes each system call and each switch between threads many times as dear.
"""

import pathlib
import re

from harness import MiB, NotRun, Sample
from servers import raw_image

KIB = 1024
DEPTH = 32
SATURATING = 256  # at a time: a plain write waits for the disk then, and for nothing else
MOST = 8


def run(bench):
    program = bench.programs.need("bench_snapshot_load")
    origin = bench.size(512 * MiB, 16 * MiB)
    room = origin + origin // 16 + MiB  # of each store: all chunks, and the exceptions
    bench.need_room(origin + MOST * room)
    image = raw_image(bench, origin + MOST * room)

    def measure(what, chunk, snapshots, depth=DEPTH):
        writes = min(origin // chunk, bench.size(32768, 256), 2 * origin // chunk // max(snapshots, 1))
        samples = {}
        for _ in range(bench.rounds):
            printed = bench.processes.run([program, what, image, origin, chunk // 512, writes, depth, snapshots])
            for line in printed.splitlines():
                phase, figure = line.split()
                samples.setdefault(phase, []).append(Sample(float(figure)))
        return samples

    for chunk in (4 * KIB, 16 * KIB, 64 * KIB):
        for count in (0, 1, 2, MOST):
            samples = measure("touch", chunk, count)
            place = f"{some(count, 'classic')}, chunk {chunk // KIB} KiB"
            if count == 0:
                bench.judge(f"{place}: write", pair(samples, "second", "raw"), target=0.9)
                continue
            bench.judge(f"{place}: first write", pair(samples, "first", "raw"))
            bench.judge(f"{place}: first write, beside the floor", pair(samples, "first", "floor"), target=0.75)
            bench.judge(f"{place}: second write", pair(samples, "second", "raw"), target=0.9)
    for depth in (DEPTH, SATURATING):
        samples = measure("touch", 4 * KIB, 1, depth)
        place = f"1 classic snapshot, chunk 4 KiB, {depth} at a time"
        bench.judge(f"{place}: first write", pair(samples, "first", "raw"), target=0.4)
        bench.judge(f"{place}: first write, beside the floor", pair(samples, "first", "floor"), target=0.75)
        bench.judge(f"{place}: the floor", pair(samples, "floor", "raw"))
        bench.judge(f"{place}: the ceiling", pair(samples, "ceiling", "raw"))
    for chunk in (4 * KIB, 16 * KIB, 64 * KIB):
        samples = measure("snapshot", chunk, 1)
        place = f"to a classic snapshot, chunk {chunk // KIB} KiB"
        # A write of 4 KiB covers a chunk of as many, and nothing is copied; of a larger one the rest is.
        bench.judge(f"{place}: first write", pair(samples, "first", "raw"), target=0.5 if chunk == 4 * KIB else None)
        bench.judge(f"{place}: second write", pair(samples, "second", "raw"))
    for chunk in (4 * KIB, 16 * KIB, 64 * KIB):
        samples = {phase: [Sample(each.value / MiB) for each in found] for phase, found in measure("merge", chunk, 1).items()}
        bench.judge(f"merge of scattered chunks of {chunk // KIB} KiB", pair(samples, "merge", "copy"), target=0.5, unit="MiB/s")
    for chunk in (64 * KIB, 256 * KIB):  # the smallest that a pool has, and a larger one
        for count in (0, 1, 2, MOST):
            samples = measure("thin", chunk, count)
            for phase in ("first", "second"):
                bench.judge(f"{some(count, 'thin')}, chunk {chunk // KIB} KiB: {phase} write", pair(samples, phase, "raw"))
    bench.remove(image)
    try:
        beside_kernel(bench, program)
    except NotRun as why:
        bench.not_run("beside a real kernel", str(why))


def beside_kernel(bench, program):
    tests = pathlib.Path(__file__).resolve().parents[2] / "tests"
    bench.programs.need("linux.uml")
    origin = bench.size(32 * MiB, 4 * MiB)
    room = origin + origin // 16 + MiB
    image = raw_image(bench, origin + MOST * room)
    script = bench.path(".sh")
    script.write_text(f"program='{program}' origin={origin} room={room} rounds={min(bench.rounds, 3)} depth={DEPTH}\n"
                      "cases='touch:8:0 touch:8:1 touch:8:2 touch:8:8 touch:32:1 touch:32:2 touch:32:8 touch:128:1 touch:128:2 touch:128:8 "
                      "snapshot:8:1 merge:8:1 merge:128:1'\n"
                      f"source '{pathlib.Path(__file__).resolve().parents[1]}/snapshots-in-kernel.sh'\n", encoding="utf-8")
    found = {}
    printed = bench.processes.run([tests / "kernel" / "in-kernel", "--timeout", 900, script, image], timeout=960)
    # Among what the kernel itself has to say.
    for side, *case, figure in re.findall(r"^(lamella|kernel) (\w+) (\d+) (\d+) (\w+) (\d+)", printed, re.MULTILINE):
        found.setdefault(tuple(case), {}).setdefault(side, []).append(float(figure))
    for (what, sectors, count, phase), sides in found.items():
        if "kernel" not in sides or (count == "0" and phase == "first"):  # without snapshots both are the same, the second longer
            continue
        chunk = f"{int(sectors) // 2} KiB"
        of_what, unit, divisor = {
            "touch": (f"{some(int(count), 'classic')}" + (f", chunk {chunk}: {phase} write" if count != "0" else ": write"), "IOPS", 1),
            "snapshot": (f"to a classic snapshot, chunk {chunk}: {phase} write", "IOPS", 1),
            "merge": (f"merge of scattered chunks of {chunk}", "MiB/s", MiB),
        }[what]
        bench.judge(f"in user-mode Linux: {of_what}", {name: [Sample(value / divisor) for value in sides[side]]
                                                       for name, side in (("lamella", "lamella"), ("the kernel", "kernel"))}, unit=unit)


def some(count, kind):
    return f"{count} {kind} snapshot{'' if count == 1 else 's'}"


def pair(samples, ours, peer):
    return {PEERS.get(ours, "lamella"): samples[ours], PEERS[peer]: samples[peer]}


PEERS = {"raw": "the file itself", "floor": "the floor", "ceiling": "the ceiling", "copy": "copy, from end to end"}

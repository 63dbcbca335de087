# SPDX-License-Identifier: Apache-2.0
"""How long writes wait while a snapshot of a served volume of 1 TiB (virtual) is taken.

One client keeps eight 4 KiB writes in flight and notes the time of each. `lamella snapshot` runs several times meanwhile; the slowest
write that was in flight during one of them is held against the slowest of the quiet time before.
"""

import array
import time

from harness import GiB, MiB, TiB
from servers import Lamella


def run(bench):
    size = bench.size(TiB, GiB)
    span = bench.size(2 * GiB, 64 * MiB)  # where the writes go: mapped beforehand
    snapshots = bench.size(10, 2)
    quiet = bench.seconds * 2
    bench.need_room(8 * GiB)
    group = Lamella(bench, size)
    group.create("web", size)
    server = group.serve()
    server.bench.fio(server.target("web"), "write", bs="1m", depth=8, seconds=0, extra=[f"--size={span}", "--end_fsync=1"])
    samples = bench.path(".latencies")
    client = bench.processes.start(bench.load_arguments(server.socket, "web", op="write", depth=8, span=span, seconds=3600,
                                                        latencies=samples))
    time.sleep(quiet)
    windows = []
    for number in range(snapshots):
        begin = time.monotonic_ns()
        group.snapshot("web", f"web-s{number}")
        windows.append((begin, time.monotonic_ns()))
        time.sleep(bench.seconds / 3)
    bench.processes.stop(client)

    latencies = array.array("Q", samples.read_bytes())
    starts, durations = latencies[0::2], latencies[1::2]
    before = [d for s, d in zip(starts, durations) if s + d < windows[0][0]]
    during = [max((d for s, d in zip(starts, durations) if s < end and s + d > begin), default=0) for begin, end in windows]
    worst_before, worst = max(before) / 1e6, max(during) / 1e6
    commands = sorted((end - begin) / 1e6 for begin, end in windows)
    bench.bound("the slowest write during a snapshot, beyond the slowest before", max(0.0, worst - worst_before), 20.0, unit="ms",
                note=f"{worst:.1f} ms against {worst_before:.1f} ms over {len(before)} writes; {len(windows)} snapshots, "
                     f"each command {commands[0]:.0f} .. {commands[-1]:.0f} ms")

# SPDX-License-Identifier: Apache-2.0
"""Four connections beside one, over the null device and a mapped volume: how a server grows with processors.

A client takes about as much processor as the server, so that four connections can show their worth only from eight processors on.
"""

import os

from harness import GiB, MiB
from servers import Lamella, null_server


def run(bench):
    processors = len(os.sched_getaffinity(0))
    size = bench.size(GiB, 64 * MiB)
    bench.need_room(2 * size)
    null = null_server(bench)
    rows = [("null device", null, "null", GiB)]
    group = Lamella(bench, size + GiB)
    group.create("web", size)
    server = group.serve()
    server.fill("web", size)
    rows.append(("mapped volume", server, "web", size))
    for what, target, export, span in rows:
        def measure(jobs):
            return target.fio(export, "randread", depth=32, jobs=jobs, extra=[f"--size={span}", "--thread"])
        bench.compare(f"{what}: randread, 4 KiB, depth 32 each", {
            "lamella, 4 connections": lambda: measure(4),
            "lamella, 1 connection": lambda: measure(1),
        }, target=2.0 if what == "null device" else None, target_if=processors >= 8)

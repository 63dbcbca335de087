# SPDX-License-Identifier: Apache-2.0
"""Mapped devices: random 4 KiB reads and writes of a linear and a striped device of the mapper, depth 32, beside the file below.

In one process and by the engine alone: what a table costs, without a server.
"""

from harness import MiB, Sample
from servers import raw_image

DEPTH = 32


def run(bench):
    program = bench.programs.need("bench_target_load")
    size = bench.size(512 * MiB, 16 * MiB)
    bench.need_room(size)
    image = raw_image(bench, size)
    samples = {}
    for _ in range(bench.rounds):
        for line in bench.processes.run([program, image, bench.size(32768, 1024), DEPTH]).splitlines():
            place, operation, figure = line.split()
            samples.setdefault((place, operation), []).append(Sample(float(figure)))
    for place in ("linear", "striped"):
        for operation in ("read", "write"):
            sides = {"lamella": samples[place, operation], "the file itself": samples["file", operation]}
            bench.judge(f"{place}: {operation}", sides, target=0.95)
    bench.remove(image)

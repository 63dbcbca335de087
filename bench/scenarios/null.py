# SPDX-License-Identifier: Apache-2.0
"""The NBD server alone, over a device that does nothing, beside nbdkit's null plugin: a stock client, and one that batches.

Servers and clients on processors of their own.
"""

from harness import GiB
from servers import nbdkit_null, null_server


def run(bench):
    with bench.apart():
        measure(bench)


def measure(bench):
    ours, peer = null_server(bench), nbdkit_null(bench)
    for rw in ("randread", "randwrite"):
        for depth in (1, 32):
            bench.compare(f"fio: {rw}, 4 KiB, depth {depth}", {
                "lamella, null": lambda: ours.fio("null", rw, depth=depth, extra=[f"--size={GiB}"]),
                "nbdkit null": lambda: peer.fio("null", rw, depth=depth, extra=[f"--size={GiB}"]),
            }, target=1.0)
    for op in ("read", "write"):
        bench.compare(f"batching client: {op}, 4 KiB, depth 128", {
            "lamella, null": lambda: ours.load("null", op=op, depth=128, seconds=bench.seconds)[0],
            "nbdkit null": lambda: peer.load("null", op=op, depth=128, seconds=bench.seconds)[0],
        }, target=4.0)

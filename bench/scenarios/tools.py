# SPDX-License-Identifier: Apache-2.0
"""The metadata tools beside thin-provisioning-tools: check, ls, diff, dump, restore, repair.

The peer is $BENCH_PDATA_TOOLS, a pdata_tools of version 1.x, where that is set, and Debian's otherwise; with both, Debian's is for scale.
All sides read the same file past the page cache, each whole run from its start to its end.
"""

import os
import time

from harness import MiB, NotRun, Sample

MAPPINGS_PER_LEAF = 252
DEBIAN = "thin-provisioning-tools, Debian"
FEW = 3  # rounds of what takes a peer a minute


class Tools:
    def __init__(self, bench):
        self.bench = bench
        self.most_resident = 0
        self.peers = {}
        newest = os.environ.get("BENCH_PDATA_TOOLS")
        if newest:
            self.peers["thin-provisioning-tools 1.x"] = lambda name: [newest, name]
        self.peers[DEBIAN] = lambda name: [bench.programs.need(name)]

    def seconds(self, arguments):
        begin = time.monotonic()
        process = self.bench.processes.start(arguments)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        self.bench.processes.stop(process)
        if process.returncode != 0:
            raise NotRun(f"{' '.join(map(str, arguments))}: status {process.returncode}")
        self.most_resident = usage.ru_maxrss * 1024
        return seconds

    def sides(self, name, words, mappings, ours=()):
        """`ours`: words that only our program is given."""
        def side(command):
            return lambda: Sample(mappings / self.seconds([*command, *words]))
        sides = {"lamella": side([self.bench.programs.need("lamella"), name, *ours])}
        for label, command in self.peers.items():
            sides[label] = side(command(name))
        return sides

    def ours(self, name, words):
        return min(self.seconds([self.bench.programs.need("lamella"), name, *words]) for _ in range(self.bench.rounds))

    def make(self, volumes, mappings, snapshots=0, own=0):
        path = self.bench.path(".metadata")
        leaves = (volumes * mappings + snapshots * own) // MAPPINGS_PER_LEAF
        size = (leaves * 9 // 8 + 8 * snapshots + 4096) * 4096
        self.bench.need_room(size)
        self.bench.processes.run([self.bench.programs.need("bench_make_pool"), path, size, volumes, mappings, snapshots, own, "random"])
        return path


def run(bench):
    tools = Tools(bench)
    few = min(FEW, bench.rounds)
    large = 60_000_000 if not bench.quick else 100_000
    path = tools.make(1, large)
    used = os.stat(path).st_blocks * 512
    text = f"{large / 1e6:g} M random mappings, {used / MiB:.0f} MiB"
    bench.compare(f"thin_check, {text}", tools.sides("thin_check", ["-q", path], large), unit="mappings/s", target=2)
    check = tools.ours("thin_check", ["-q", path])
    bench.bound(f"check, resident at most, {text}", tools.most_resident / MiB, 100, unit="MiB")
    dd = ["dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none"]
    read = min(tools.seconds(dd) for _ in range(bench.rounds))
    bench.bound(f"check against reading the file, {text}", check / read, 2.5, unit="times as long",
                note=f"{check:.2f} s and {read:.2f} s")
    fields = ["-o", "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS", path]
    bench.compare(f"thin_ls with exclusive blocks, {text}", tools.sides("thin_ls", fields, large), unit="mappings/s", target=3)
    bench.compare(f"thin_dump, {text}", tools.sides("thin_dump", ["-o", "/dev/null", path], large), unit="mappings/s", target=3, rounds=few)
    copy = bench.path(".copy")
    with open(copy, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.stat(path).st_size)
    bench.compare(f"thin_repair of sound metadata, {text}", tools.sides("thin_repair", ["-i", path, "-o", copy], large),
                  unit="mappings/s", target=3, rounds=few)
    xml = bench.path(".xml")
    bench.need_room(80 * large)
    bench.compare(f"thin_dump into a file, {text}", tools.sides("thin_dump", ["-o", xml, path], large), unit="mappings/s", target=3, rounds=few)
    bench.remove(path)
    words = ["-i", xml, "-o", copy]
    tools.ours("thin_restore", words)
    bench.bound(f"thin_restore, resident at most, {text}", tools.most_resident / MiB, 128, unit="MiB")
    bench.compare(f"thin_restore, {text}", tools.sides("thin_restore", words, large), unit="mappings/s", target=4, rounds=few)
    bench.remove(xml)
    bench.remove(copy)

    shared = 2_000_000 if not bench.quick else 50_000
    alone = tools.make(1, shared)
    snapshots = tools.make(1, shared, snapshots=1000)
    for name, words in (("thin_check", ["-q"]), ("thin_ls", ["-o", "DEV,EXCLUSIVE_BLOCKS"])):
        one = tools.ours(name, [*words, alone])
        many = tools.ours(name, [*words, snapshots])
        bench.bound(f"{name}, 1000 snapshots of {shared / 1e6:g} M mappings against the volume alone", many / one, 1.1,
                    unit="times as long", note=f"{many:.3f} s and {one:.3f} s")
    sides = tools.sides("thin_dump", ["-o", "/dev/null", snapshots], shared, ours=["--definitions"])
    del sides[DEBIAN]  # it would print two thousand million mappings
    bench.compare(f"thin_dump with definitions, 1000 snapshots of {shared / 1e6:g} M mappings", sides, unit="mappings/s", target=3, rounds=few)

    each = 4_000_000 if not bench.quick else 50_000
    path = tools.make(1, each, snapshots=1, own=400)
    sides = tools.sides("thin_delta", ["--snap1", "1", "--snap2", "2", path], each)
    ours = [bench.programs.need("lamella"), "thin_delta", "--changes-only", "--snap1", "1", "--snap2", "2", path]
    changes = {"lamella, changes only": lambda: Sample(each / tools.seconds(ours))}
    bench.compare(f"thin_delta, 2 x {each / 1e6:g} M mappings, 400 changed", {**changes, **{k: v for k, v in sides.items() if k != "lamella"},
                                                                             "lamella, all": sides["lamella"]}, unit="mappings/s", target=10)

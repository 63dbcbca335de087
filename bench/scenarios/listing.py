# SPDX-License-Identifier: Apache-2.0
"""`lamella list` on a group of 10,000 snapshots.

The group is written by this script, with a metadata area large enough for such a text; thin_restore makes its thin devices.
"""

import re
import statistics
import time

from fixtures import SECTOR, PoolPlace, restore_mappings, section, write_group
from harness import GiB, MiB
from servers import Lamella

DATA_START = 64 * MiB


def run(bench):
    count = bench.size(10000, 50)
    model = Lamella(bench, GiB, "--metadata-size", "128m")
    model.create("web", GiB)
    model.snapshot("web", "copy-0")
    text = model.command("group", "backup", model.image)
    extent_bytes = int(re.search(r"extent_size = (\d+)", text).group(1)) * SECTOR
    extents = int(re.search(r"pe_count = (\d+)", text).group(1))

    begin, end = section(text, "copy-0")
    pattern = text[begin:end]
    transaction = PoolPlace(text).transaction
    identity = re.search(r'id = "([^"]+)"', pattern).group(1)
    copies = []
    for number in range(1, count):
        copy = pattern.replace("copy-0", f"copy-{number}").replace(identity, identity[:-6] + f"{number:06}")
        copy = re.sub(r"device_id = \d+", f"device_id = {number + 2}", copy)
        copies.append(re.sub(r"transaction_id = \d+", f"transaction_id = {transaction - 1 + number}", copy))
    text = text[:end] + "\n\n" + "\n\n".join(copies) + text[end:]
    begin, end = section(text, "pool")
    text = text[:begin] + re.sub(r"transaction_id = \d+", f"transaction_id = {transaction - 1 + count}", text[begin:end]) + text[end:]
    size = DATA_START + extents * extent_bytes
    text = re.sub(r"pe_start = \d+", f"pe_start = {DATA_START // SECTOR}", text)
    text = re.sub(r"dev_size = \d+", f"dev_size = {size // SECTOR}", text)

    image = bench.path(".group.img")
    write_group(image, text, DATA_START, size)
    place = PoolPlace(text)
    restore_mappings(bench, image, place, [(1, 0, 16, [(0, 0, 16)])] +
                     [(number + 2, transaction - 1 + number, 16, [(0, 0, 16)]) for number in range(count)])
    group = Lamella(bench, 0, image=image)
    listed = len([v for v in group.list()["volumes"] if v["origin"] == "web"])
    if listed != count:
        raise AssertionError(f"{listed} snapshots are listed, {count} are there")

    def timed(words):
        seconds = []
        for _ in range(bench.rounds):
            start = time.monotonic()
            group.command(*words)
            seconds.append(time.monotonic() - start)
        return statistics.median(seconds)

    note = f"{count} snapshots, {len(text) / MiB:.1f} MiB of text"
    bench.bound("lamella list", timed(["list", image]), 0.3, unit="s", note=note)
    group.serve()
    bench.bound("lamella list of a group that is served", timed(["list", image]), 0.3, unit="s", note=note)
    own = bench.processes.run([bench.programs.need("bench_report_load"), str(count), str(bench.rounds)])
    bench.bound("the kernel engine's own part, LVM's report and the kernel's devices at hand", float(own), 0.3, unit="s",
                note=f"{count} snapshots, a tenth of them active")

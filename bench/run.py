#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Measurements of Lamella beside its peers: docs/benchmarks.md. Ends with 1 if something couldn't be run; a missed target is no error.

Programs: $LAMELLA (default build/lamella), and $BENCH_PROGRAMS (default: the folder bench beside it) for bench_nbd_load,
bench_null_server, bench_make_pool, bench_snapshot_load, bench_target_load and bench_report_load. The rest comes from Debian and is
looked for in $PATH.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import scenarios  # noqa: E402
from harness import Bench, NotRun, machine  # noqa: E402


class Programs:
    """Where each program is; what is missing costs the scenarios that need it."""

    def __init__(self):
        root = pathlib.Path(__file__).resolve().parent.parent
        lamella = pathlib.Path(os.environ.get("LAMELLA", root / "build" / "lamella")).resolve()
        built = pathlib.Path(os.environ.get("BENCH_PROGRAMS", lamella.parent / "bench"))
        self._places = {"lamella": lamella, "bench_nbd_load": built / "bench_nbd_load", "bench_null_server": built / "bench_null_server",
                        "bench_make_pool": built / "bench_make_pool", "bench_snapshot_load": built / "bench_snapshot_load",
                        "bench_target_load": built / "bench_target_load", "bench_report_load": built / "bench_report_load"}

    def need(self, name):
        place = self._places.get(name)
        if place is None:
            place = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
            self._places[name] = place
        if place is None or not os.access(place, os.X_OK):
            raise NotRun(f"{name} isn't there" + (f": {place}" if place else ""))
        return place


def parse():
    names = [scenarios.name_of(s) for s in scenarios.ALL]
    listing = "\n".join(f"  {scenarios.name_of(s):12} {scenarios.title_of(s)}" for s in scenarios.ALL)
    parser = argparse.ArgumentParser(prog="./dev bench", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Measures Lamella beside its peers, in turn, in one run.", epilog="scenarios:\n" + listing)
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, measures nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="runs of each side (default 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each timed run (default 3)")
    parser.add_argument("--dir", default="/var/tmp", metavar="DIR", help="on the disk to measure (default /var/tmp)")
    parser.add_argument("--json", metavar="FILE", help="append each result as a line of JSON")
    parser.add_argument("--keep-logs", metavar="DIR", help="copy what servers printed there")
    options = parser.parse_args()
    for name in options.scenario:
        if name not in names:
            parser.error(f"no scenario {name}: {', '.join(names)}")
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options, Programs())
    status = 0
    try:
        print("\n".join(machine(bench.folder)))
        print(f"runs        {bench.rounds} of each side in turn, {bench.seconds} s each; medians, [least .. most]"
              + ("; quick: nothing is judged" if bench.quick else ""))
        for scenario in scenarios.ALL:
            name = scenarios.name_of(scenario)
            if options.scenario and name not in options.scenario:
                continue
            bench.scenario = name
            print(f"\n== {name}: {scenarios.title_of(scenario)}", flush=True)
            begin = time.monotonic()
            try:
                scenario.run(bench)
            except NotRun as why:
                bench.not_run("the scenario", str(why))
            bench.clean()
            print(f"({time.monotonic() - begin:.0f} s)")
        summary(bench.results)
        status = 1 if any("not_run" in row for row in bench.results) else 0
    except KeyboardInterrupt:
        status = 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # what is left behind is taken away in any case
            signal.signal(number, signal.SIG_IGN)
        bench.processes.stop_all()
        if options.keep_logs:
            shutil.copytree(bench.folder / "logs", options.keep_logs, dirs_exist_ok=True)
        bench.close()
    return status


def summary(results):
    judged = [r for r in results if r.get("met") is not None]
    missed = [r for r in judged if not r["met"]]
    absent = [r for r in results if "not_run" in r]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} targets met" + (f", {len(absent)} not run" if absent else ""))
    for row in missed:
        print(f"  missed: {row['scenario']}: {row['what']}")
    for row in absent:
        print(f"  not run: {row['scenario']}: {row['what']}")


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What every scenario stands on: processes that end with the run, fio and bench_nbd_load, measurements in turn, tables."""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import tempfile
import time

MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40


class NotRun(Exception):
    """A scenario, or a row of it, can't be measured here. The text says why."""


class Sample:
    """One short run: the figure, and what a server's processor gave for it."""

    def __init__(self, value, operations=0, processor_seconds=None):
        self.value = value
        self.operations = operations
        self.processor_seconds = processor_seconds

    def microseconds_each(self):
        """Processor time of the server for one operation; None where it isn't known."""
        if self.processor_seconds is None or not self.operations:
            return None
        return self.processor_seconds * 1e6 / self.operations


class Processes:
    """Children, stopped by their process ids, the last one first, on every way out."""

    def __init__(self, logs):
        self._logs = logs
        self._running = []
        self._started = 0

    def start(self, arguments, **options):
        """In a session of its own, so that Ctrl-C reaches this program alone, which then stops servers in order."""
        self._started += 1
        log = self._logs / f"{self._started:03}-{pathlib.Path(arguments[0]).name}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                       start_new_session=True, **options)
        process.log = log
        self._running.append(process)
        return process

    def stop(self, process, patience=30):
        """SIGTERM, then, after `patience` seconds, SIGKILL. Returns the status."""
        if process in self._running:
            self._running.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()

    def stop_all(self):
        while self._running:
            self.stop(self._running[-1], patience=5)

    def run(self, arguments, timeout=600, check=True):
        """Runs a command to its end; returns its standard output. It is killed when we are interrupted."""
        arguments = [str(a) for a in arguments]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        self._running.append(process)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise NotRun(f"{' '.join(arguments)}: no end after {timeout} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            self._running.remove(process)
        if check and process.returncode != 0:
            text = (errors or output).decode(errors="replace").strip().splitlines()
            raise NotRun(f"{' '.join(arguments)}: status {process.returncode}: {' / '.join(text[-3:])}")
        return output.decode(errors="replace")


def tail_of(path, lines=3):
    return " / ".join(path.read_text(errors="replace").strip().splitlines()[-lines:])


def processor_seconds(pid):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """(now, at most so far), bytes."""
    values = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            values[key] = int(value.split()[0]) * 1024
    return values["VmRSS"], values["VmHWM"]


def wait_for(condition, process, what, seconds=60):
    """Until `condition()`; NotRun when the process ends first, or time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise NotRun(f"{what} ended with status {process.returncode}: {tail_of(process.log)}")
        if time.monotonic() > deadline:
            raise NotRun(f"{what} isn't ready after {seconds} s: {tail_of(process.log)}")
        time.sleep(0.002)


class Bench:
    """One run of the benchmarks: where it works, how long it measures, what it found."""

    def __init__(self, options, programs):
        self.quick = options.quick
        self.rounds = options.rounds or (1 if self.quick else 5)
        self.seconds = options.seconds or (0.3 if self.quick else 3.0)
        self.programs = programs
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lamella-bench-", dir=options.dir))
        (self.folder / "logs").mkdir()
        os.environ["LAMELLA_STATE_DIR"] = str(self.folder / "state")  # not where this host keeps backups of its own groups
        self.processes = Processes(self.folder / "logs")
        self.results = []
        self.scenario = None
        self._names = 0
        self._json = options.json
        self.place_server = []  # what to put before a command, so that it runs on processors of its own
        self.place_client = []

    # --- places ---

    def path(self, suffix):
        """A new name in the folder of this run."""
        self._names += 1
        return self.folder / f"{self._names}{suffix}"

    def size(self, full, quick):
        """Bytes: smaller in a quick run."""
        return quick if self.quick else full

    def need_room(self, size):
        free = shutil.disk_usage(self.folder).free
        if free < size + GiB:
            raise NotRun(f"needs {size / GiB:.0f} GiB in {self.folder.parent}, {free / GiB:.0f} GiB are free")

    def remove(self, path):
        """Removes a file. One of very many extents takes minutes on a file system that is mounted with `discard`: zeroing the whole of
        it first, in metadata alone, makes a few large extents of them."""
        size = path.stat().st_size
        if path.is_file() and MiB < size < shutil.disk_usage(self.folder).free // 2:
            self.processes.run(["fallocate", "--zero-range", "--length", size, path], check=False)
        path.unlink()

    def clean(self):
        """Between scenarios: no process and no file stays."""
        self.processes.stop_all()
        for entry in self.folder.iterdir():
            if entry.name == "state":
                shutil.rmtree(entry)
            elif entry.name != "logs":
                self.remove(entry)

    def close(self):
        self.clean()
        shutil.rmtree(self.folder)

    # --- processors ---

    @contextlib.contextmanager
    def apart(self):
        """Servers that are started in here have one half of the processors, clients the other, whoever's they are: else it is chance, new
        with each run, whether two that talk share a processor, and with one request at a time that decides more than anything else."""
        processors = sorted(os.sched_getaffinity(0))
        half = len(processors) // 2
        if half and shutil.which("taskset"):
            self.place_server, self.place_client = (["taskset", "--cpu-list", ",".join(map(str, part))]
                                                    for part in (processors[:half], processors[half:]))
        try:
            yield
        finally:
            self.place_server, self.place_client = [], []

    # --- clients ---

    def fio(self, target, rw, *, bs="4k", depth=32, seconds=None, jobs=1, servers=(), extra=()):
        """One run of fio. `target`: the options that name the engine and the place. A Sample of operations a second."""
        timed = [] if seconds == 0 else ["--time_based", f"--runtime={round(1000 * (seconds or self.seconds))}ms"]
        arguments = [*self.place_client, self.programs.need("fio"), "--name=bench", *target, f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
                     f"--numjobs={jobs}", "--group_reporting", "--output-format=json", *timed,
                     *extra]
        before = sum(processor_seconds(server.pid) for server in servers)
        output = self.processes.run(arguments)
        used = sum(processor_seconds(server.pid) for server in servers) - before
        job = json.loads(output[output.index("{"):])["jobs"][0]
        if job["error"]:
            raise NotRun(f"fio {rw}: error {job['error']}")
        count = job["read"]["total_ios"] + job["write"]["total_ios"]
        return Sample(job["read"]["iops"] + job["write"]["iops"], count, used if servers else None)

    def load(self, socket, export, servers=(), **options):
        """One run of bench_nbd_load: (Sample of operations a second, its report)."""
        arguments = self.load_arguments(socket, export, **options)
        before = sum(processor_seconds(server.pid) for server in servers)
        report = json.loads(self.processes.run(arguments))
        used = sum(processor_seconds(server.pid) for server in servers) - before
        return Sample(report["iops"], report["requests"], used if servers else None), report

    def load_arguments(self, socket, export, **options):
        arguments = [*self.place_client, self.programs.need("bench_nbd_load"), "--socket", socket, "--export", export]
        for name, value in options.items():
            arguments += [f"--{name}", value]
        return arguments

    # --- measuring ---

    def compare(self, what, sides, *, target=None, unit="IOPS", target_if=True, rounds=None):
        """Measures the sides in turn (A B, B A, A B ...), and says how the first stands to the second.

        Two neighbouring runs see about the same machine, so the ratio is the median of the ratios of each round.
        `sides`: {label: function that returns a Sample}, ours first, then the peer; further ones are for scale. `target`: the least
        ratio. `target_if`: False where this machine can't show it. `rounds`: other than the run's.
        """
        samples = {label: [] for label in sides}
        try:
            for number in range(rounds or self.rounds):
                for label in list(sides) if number % 2 == 0 else reversed(list(sides)):
                    samples[label].append(sides[label]())
        except NotRun as why:
            self.not_run(what, str(why))
            return None
        return self.judge(what, samples, target=target, unit=unit, target_if=target_if)

    def judge(self, what, samples, *, target=None, unit="IOPS", target_if=True):
        """As compare(), of samples that are there: {label: one of each round}."""
        ratios = []
        if len(samples) > 1:
            ours, peer = list(samples.values())[:2]
            ratios = [a.value / b.value for a, b in zip(ours, peer) if b.value]
        ratio = statistics.median(ratios) if ratios else None
        row = {"what": what, "unit": unit, "sides": {}, "ratio": ratio, "ratios": ratios, "target": target}
        for label, of_side in samples.items():
            values = [s.value for s in of_side]
            each = [s.microseconds_each() for s in of_side if s.microseconds_each() is not None]
            row["sides"][label] = {"min": min(values), "median": statistics.median(values), "max": max(values), "runs": values,
                                   "server_us_each": statistics.median(each) if each else None}
        row["met"] = None if self.quick or target is None or ratio is None or not target_if else ratio >= target
        self._record(row)
        return row

    def bound(self, what, value, limit, *, unit, note=""):
        """A figure that must not be larger than `limit`."""
        row = {"what": what, "unit": unit, "value": value, "limit": limit, "note": note, "met": None if self.quick else value <= limit}
        self._record(row)

    def note(self, what, text):
        self._record({"what": what, "note": text})

    def not_run(self, what, why):
        self._record({"what": what, "not_run": why})

    def _record(self, row):
        row = {"scenario": self.scenario, **row}
        self.results.append(row)
        print(as_text(row), flush=True)
        if self._json:
            with open(self._json, "a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)


def figure(value):
    if value >= 10000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


VERDICTS = {True: "met", False: "MISSED", None: "not judged"}


def as_text(row):
    """A row of the table, of as many lines as it has sides."""
    what = row["what"]
    if "not_run" in row:
        return f"{what}\n    not run: {row['not_run']}"
    if "limit" in row:
        note = f"  ({row['note']})" if row["note"] else ""
        return f"{what}\n    {figure(row['value'])} {row['unit']}, at most {figure(row['limit'])}: {VERDICTS[row['met']]}{note}"
    if "sides" not in row:
        return f"{what}\n    {row['note']}"
    lines = [what]
    for label, side in row["sides"].items():
        each = f"   server {side['server_us_each']:6.1f} us/op" if side["server_us_each"] is not None else ""
        lines.append(f"    {label:28} {figure(side['median']):>8} {row['unit']}   [{figure(side['min'])} .. {figure(side['max'])}]{each}")
    if row["ratio"] is not None:
        target = f", target {row['target']}: {VERDICTS[row['met']]}" if row["target"] is not None else ""
        lines.append(f"    ratio {row['ratio']:.2f} [{min(row['ratios']):.2f} .. {max(row['ratios']):.2f}]{target}")
    return "\n".join(lines)


def machine(folder):
    """What figures depend on: a list of lines."""
    model = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mount = max((line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()
                 if (str(folder) + "/").startswith(line.split()[1].rstrip("/") + "/")),
                key=lambda fields: len(fields[1]), default=["?", "?", "?"])  # a root that was changed isn't in the list
    return [
        f"processor   {len(os.sched_getaffinity(0))} x {model}",
        f"memory      {memory / GiB:.1f} GiB",
        f"kernel      {platform.release()}",
        f"disk        {disk_of(folder, mount)}, {mount[2]} on {mount[1]}",
        f"O_DIRECT    {'yes' if has_direct(folder) else 'NO: figures are those of the page cache'}",
    ]


def disk_of(folder, mount):
    device = os.stat(folder).st_dev
    queue = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (queue / "partition").exists():
        queue = queue.parent
    facts = [mount[0]]
    for name, words in (("rotational", {"0": "not rotational", "1": "rotational"}), ("write_cache", {})):
        file = queue / "queue" / name
        if file.exists():
            value = file.read_text().strip()
            facts.append(words.get(value, value))
    return " ".join(facts[:1]) + (f" ({', '.join(facts[1:])})" if len(facts) > 1 else "")


def has_direct(folder):
    path = folder / "direct"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.close(fd)
        return True
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)

# SPDX-License-Identifier: Apache-2.0
"""Ours and the peers: how each is started, and where a client finds it. All on unix sockets beside the data."""

import json
import pathlib
import socket
import struct

from harness import NotRun, wait_for


class Server:
    """A running NBD server."""

    def __init__(self, bench, arguments, socket_path):
        self.bench = bench
        self.socket = socket_path
        self.process = bench.processes.start([*bench.place_server, *arguments])
        wait_for(lambda: accepts(socket_path), self.process, pathlib.Path(arguments[0]).name)

    @property
    def pid(self):
        return self.process.pid

    def target(self, export):
        """fio's options for an export."""
        return ["--ioengine=nbd", f"--uri=nbd+unix:///{export}?socket={self.socket}"]

    def fio(self, export, rw, **options):
        return self.bench.fio(self.target(export), rw, servers=[self], **options)

    def load(self, export, **options):
        return self.bench.load(self.socket, export, servers=[self], **options)

    def hold(self, export):
        """A connection that does nothing: an export that nobody uses any more is closed, and its memory given back."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.socket))
        client.recv(18, socket.MSG_WAITALL)
        name = export.encode()
        client.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)  # NBD_OPT_EXPORT_NAME
        if len(client.recv(10, socket.MSG_WAITALL)) != 10:
            raise NotRun(f"no export {export}")
        return client

    def fill(self, export, size):
        """Writes all of it, in order, with data that no server takes for zeros, and flushes."""
        self.bench.fio(self.target(export), "write", bs="1m", depth=8, seconds=0, extra=[f"--size={size}", "--end_fsync=1"])

    def stop(self):
        status = self.bench.processes.stop(self.process)
        if status != 0:
            raise NotRun(f"a server ended with status {status}: {self.process.log.read_text(errors='replace')[-300:]}")


def accepts(path):
    """Whether a server listens and greets: a listening socket alone says nothing of a server that still opens its images."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            return client.recv(8, socket.MSG_WAITALL) == b"NBDMAGIC"
    except OSError:
        return False


class Lamella:
    """A group in one image file, and the program that works on it."""

    def __init__(self, bench, size, *options, image=None):
        self.bench = bench
        self.image = image or bench.path(".group.img")
        self.server = None
        if image is None:
            self.command("init", self.image, "--size", f"{size}b", "--vg", "bench", "--pool-size", "100%FREE", *options)

    def command(self, *words, timeout=600):
        return self.bench.processes.run([self.bench.programs.need("lamella"), *words], timeout=timeout)

    def volume(self, name):
        return f"{self.image}:{name}"

    def create(self, name, size):
        self.command("create", self.volume(name), "--size", f"{size}b")

    def snapshot(self, name, snapshot):
        self.command("snapshot", self.volume(name), "--name", snapshot)

    def list(self):
        return json.loads(self.command("list", self.image, "--all", "--json"))

    def serve(self, *options):
        path = self.bench.path(".sock")
        self.server = Server(self.bench, [self.bench.programs.need("lamella"), "serve", self.image, "--socket", path, *options], path)
        return self.server

    def remove(self):
        if self.server:
            self.server.stop()
            self.server = None
        self.bench.remove(self.image)


def null_server(bench):
    path = bench.path(".sock")
    return Server(bench, [bench.programs.need("bench_null_server"), path, 1 << 30], path)


def nbdkit_null(bench):
    path = bench.path(".sock")
    return Server(bench, [bench.programs.need("nbdkit"), "--foreground", "--unix", path, "--exportname", "null", "null", "size=1G"], path)


def qemu_nbd(bench, image, image_format):
    """As qemu's documentation has it for speed: past the page cache, through io_uring."""
    path = bench.path(".sock")
    return Server(bench, [bench.programs.need("qemu-nbd"), "--socket", path, "--format", image_format, "--cache", "none", "--aio",
                          "io_uring", "--discard", "unmap", "--persistent", "--shared", 16, "--export-name", "disk", image], path)


def raw_image(bench, size):
    """A raw file with every block written."""
    path = bench.path(".raw.img")
    bench.fio(["--ioengine=io_uring", f"--filename={path}", "--direct=1"], "write", bs="1m", depth=8, seconds=0,
              extra=[f"--size={size}", "--fallocate=none", "--end_fsync=1"])
    return path


def qcow2_image(bench, size=None, backing=None):
    """An empty qcow2 image of 64 KiB clusters, by itself or over a raw file."""
    path = bench.path(".qcow2.img")
    words = ["-b", backing, "-F", "raw"] if backing else []
    bench.processes.run([bench.programs.need("qemu-img"), "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", *words, path,
                         *([size] if size else [])])
    return path

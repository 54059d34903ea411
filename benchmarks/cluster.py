"""A Ray cluster of several nodes on this machine, by real ``ray start``, ended by the pids of its own processes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

START_SECONDS = 180.0
# Ray takes 127.0.0.1 for the address of the host, other addresses of the loopback stay what they are. A cluster that
# other nodes can join listens on all interfaces whatever it is told (docs/security.md); the token keeps others out.
# Each cluster has addresses of its own: agents of nodes have fixed ports.
HEAD, WORKER = "127.0.{}.2", "127.0.{}.3"
OBJECT_STORE_BYTES = 200 * 2**20


class LocalCluster:
    """A head, and workers that come and go. Make it with :func:`local_cluster`.

    Args:
        folder: of the nodes' logs.
        num_cpus: logical, of the head.
        dashboard: whether jobs can be submitted.
    """

    def __init__(self, folder: Path, num_cpus: int, dashboard: bool) -> None:
        self.folder = folder
        port, self.dashboard_port = free_port(), free_port()
        self._net = secrets.randbelow(256)
        host = HEAD.format(self._net)
        self.address = f"{host}:{port}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        board = [f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1"]
        # A folder of its own: a job asks Ray's folder for the address of its cluster, not the head that it runs on.
        head = ["--head", f"--node-ip-address={host}", f"--port={port}", f"--dashboard-port={self.dashboard_port}"]
        head += [f"--temp-dir={folder}/ray"]
        self.head = self._start([*head, *board], num_cpus)

    @property
    def jobs(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def add_worker(self, num_cpus: int) -> subprocess.Popen[bytes]:
        """Start another node and wait until it has joined."""
        return self._start([f"--address={self.address}", f"--node-ip-address={WORKER.format(self._net)}"], num_cpus)

    def remove(self, node: subprocess.Popen[bytes]) -> None:
        """Take a node away as a power cut does: all its processes at once, without a word."""
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        node.wait()
        self._nodes.remove(node)

    def actors(self, *nodes: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Return the processes of the solver actors, of some nodes or of all."""
        return self._named("ray::MapWorker", nodes or self._nodes)

    def at_work(self) -> list[psutil.Process]:
        """Return the processes that work for a driver: solver actors and readers."""
        return [*self.actors(), *self._named("ray::FlatMap", self._nodes)]

    def _named(self, start: str, nodes: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
        found = []
        for process in [each for node in nodes for each in psutil.Process(node.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                if process.cmdline()[0].startswith(start):
                    found.append(process)
        return found

    def stop(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self._nodes):
            family = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
            node.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(family, timeout=20)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            with suppress(subprocess.TimeoutExpired):
                node.wait(20)
            node.kill()
        self._nodes.clear()

    def _start(self, words: list[str], num_cpus: int) -> subprocess.Popen[bytes]:
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]
        line = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
            *(*words, *ports, f"--num-cpus={num_cpus}", "--num-gpus=0", "--disable-usage-stats"),
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ]
        log = self.folder / f"node{len(self._nodes)}-{time.monotonic_ns()}.log"
        patient = {"RAY_raylet_start_wait_time_s": str(int(START_SECONDS))}  # not 30
        with log.open("wb") as stream:
            node = subprocess.Popen(
                line, stdout=stream, stderr=subprocess.STDOUT, cwd=self.folder, env=os.environ | patient
            )
        self._nodes.append(node)
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if node.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"ray start did not come up: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        return node


@contextmanager
def local_cluster(folder: Path, num_cpus: int, dashboard: bool = False) -> Iterator[LocalCluster]:
    """Start a head with a token, make it the cluster of this process, and end it all.

    To be called once in a process, before Ray is imported: Ray reads address, token and mode once.
    """
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        cluster = LocalCluster(folder, num_cpus, dashboard)
    except RuntimeError:  # a port that was free may be taken a moment later; other ports are drawn
        cluster = LocalCluster(folder, num_cpus, dashboard)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.stop()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])

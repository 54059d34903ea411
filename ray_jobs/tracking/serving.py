"""A server of MLflow for a store that is a file or a database, on this machine and for it alone."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs.tracking.links import Shown, links

HOST = "127.0.0.1"
START = 120.0  # seconds, at most: MLflow takes ten to import, and a new database is brought up to date


def serve(runs: Sequence[RunFolder], port: int = 0) -> None:
    """Print links to runs; serve their store until Ctrl-C, unless it is a server.

    Raises:
        RequestError: the runs are not in one store, or no server could be started on the port.
    """
    shown = [Shown.of(run) for run in runs]
    if len({each.uri for each in shown}) > 1:
        raise RequestError(
            "runs", "are in several stores of MLflow, and one page shows one; allowed: runs of one store"
        )
    if shown[0].uri.startswith(("http://", "https://")):
        print(*links(shown), sep="\n")
        return
    with server(shown[0].uri, port) as (address, process):
        print(*links(shown, address), f"serving  {address}, until Ctrl-C", sep="\n", flush=True)
        with suppress(KeyboardInterrupt):
            process.wait()


@contextmanager
def server(uri: str, port: int = 0, artifacts: str | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server of a store, reachable from this machine alone.

    Args:
        uri: of the store, a database.
        port: a free one if left out.
        artifacts: where the server keeps what it is sent; if left out, clients write where the store says.
    """
    if port == 0:
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
    line = [*(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")]
    # the address of the store in the environment: a command line is there to be read by all users of a machine
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    if artifacts is not None:
        line += ["--artifacts-destination", artifacts]
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven more processes
    null = subprocess.DEVNULL
    process = subprocess.Popen(line, env=environment, start_new_session=True, stdout=null, stderr=null)
    address = f"http://{HOST}:{port}"
    try:
        end = time.monotonic() + START
        while not answers(address):
            if process.poll() is not None or time.monotonic() > end:
                raise RequestError("--open", f"MLflow's server did not start; try: {shlex.join(line[1:])}")
            time.sleep(0.2)
        yield address, process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()


def answers(address: str) -> bool:
    """Return whether a server of MLflow is there."""
    with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False

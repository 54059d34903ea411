"""A real MLflow server, and a wire to it that can be cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from benchmarks.cluster import free_port
from benchmarks.faults.scene import wait_until


class TrackingServer:
    """An MLflow server on the loopback, with its store in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = (folder / "mlflow.log").open("wb")
        line = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        # without its job runners, which are seven more processes
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        output = {"stdout": self._log, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(line, cwd=folder, env=environment, start_new_session=True, **output)
        wait_until(self._answers, 180, "the MLflow server did not come up")

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).status == 200)
        return False

    def names(self, experiment: str) -> list[str]:
        """Return the names of all MLflow runs of an experiment."""
        from mlflow import MlflowClient

        client = MlflowClient(f"http://127.0.0.1:{self.port}")
        found = client.get_experiment_by_name(experiment)
        return [each.info.run_name for each in client.search_runs([found.experiment_id])] if found else []

    def stop(self) -> None:
        """End the server and its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 15)
        self._process.wait(30)
        self._log.close()


class Proxy:
    """Passes connections on to a port, until it is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._left: int | None = None  # requests (or parts of long ones) until it is cut; None, it is not
        self._server = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self.uri = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._server.close()

    def cut(self, after: int = 0) -> None:
        """Drop all connections, once so many more requests have been passed on."""
        self._left = after

    def mend(self) -> None:
        """Pass everything on again."""
        self._left = None

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._port))
            for source, target, counted in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._left is not None and counted:
                    self._left -= 1
                if self._left is not None and self._left < 0:
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

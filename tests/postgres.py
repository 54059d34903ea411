"""A real PostgreSQL on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "correct-horse-battery-staple"
USER = "mlflow"


def missing() -> str | None:
    """Return what is not installed here, None if all is."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        return "no PostgreSQL is installed (apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None


@dataclass(frozen=True)
class Postgres:
    """A running server with an empty database; it asks for a password, which ``PGPASSWORD`` gives."""

    port: int

    @property
    def uri(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server; ended by its process. It refuses to be root's, and is nobody's where a test is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.geteuid() == 0 else {}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **as_user}
    try:
        (folder / "password").write_text(PASSWORD)
        if as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "nobody")
        data = str(folder / "data")
        line = ["initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", "--no-sync", "--locale=C", "-E", "UTF8"]
        subprocess.run([*line, f"--pwfile={folder / 'password'}"], check=True, **quiet)
        line = ["postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
        server = subprocess.Popen(line, **quiet)
        try:
            _wait(port, server)
            yield Postgres(port)
        finally:
            server.send_signal(2)  # fast: it disconnects its clients
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start")

"""A real S3-compatible server on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

BUCKET = "bucket"
SECRET = "wJalrXUtnFEMI-not-a-real-key"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",  # the client would look for a machine of Amazon's
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True)
class ObjectStore:
    """A running server: ``client`` is that of boto3, which shares no code with what is tested."""

    endpoint: str
    log: Path
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def listed(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def requests(self) -> list[str]:
        """Return the requests so far: ``PUT /bucket/key``."""
        text = re.sub(r"\x1b\[\d+m", "", self.log.read_text())
        return re.findall(r'"([A-Z]+ /\S*) HTTP', text)

    def wants_credentials(self, does: bool) -> None:
        """Let the server refuse those it does not know, or let everybody in again."""
        count = b"0" if does else b"1000000000"
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", count, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run a server with one bucket; ended by its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint, log = f"http://127.0.0.1:{port}", folder / "s3.log"
    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(line, stdout=file, stderr=file)
    try:
        _wait(port, server, log)
        session = boto3.session.Session(ENVIRONMENT["AWS_ACCESS_KEY_ID"], SECRET, region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        yield ObjectStore(endpoint, log, client)
    finally:
        server.terminate()
        server.wait()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the object store did not start: {log.read_text()}")


@contextmanager
def refusing(store: ObjectStore, method: str, times: int) -> Iterator[str]:
    """Serve the store at another endpoint that answers the first requests of a method with 503, as S3 does."""
    left = threading.Semaphore(times)
    port = int(store.endpoint.rpartition(":")[2])

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(2**16)
            if not request:
                return
            if request.startswith(f"{method} ".encode()) and left.acquire(blocking=False):
                self.request.sendall(b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", port)) as server:
                # a connection for each request: of the next one, the method is to be seen, too
                server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                threading.Thread(target=_pass_on, args=(self.request, server), daemon=True).start()
                _pass_on(server, self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)

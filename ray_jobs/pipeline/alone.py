"""One driver at a time in a run's folder: two would put each other's files in order while they are being written."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ipsolve.errors import RequestError
from ipsolve.results import RunFolder

LOCK = ".lock"
# on an object store: how long a driver may be silent before it counts as dead; it writes every 20 seconds
SILENCE = 90.0


@contextmanager
def alone(run: RunFolder, kind: str) -> Iterator[None]:
    """Hold the folder of a run; ``kind`` is what it is to its user.

    On a file system this is a lock, which a driver that is killed gives back at once. An object store has no locks:
    there another driver is known by its writing ``status.json``, and one that has stopped is waited for.

    Raises:
        RequestError: another driver is at work, or the folder cannot be written.
    """
    if not run.local:
        _wait_for_silence(run, kind)
        yield
        return
    try:
        os.makedirs(run.root, exist_ok=True)
        file = os.open(run.path(LOCK), os.O_CREAT | os.O_WRONLY)
    except OSError as error:
        raise RequestError(f"output: cannot write to {run.location!r}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(run, kind) from None
        yield
    finally:
        os.close(file)


def _wait_for_silence(run: RunFolder, kind: str) -> None:
    first = run.read_json("status.json")
    if first.get("state") != "running":
        return
    print(f"another driver may be at work in {run.location}: listening for {SILENCE:.0f} s", flush=True)
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(5.0, SILENCE))
        now = run.read_json("status.json")
        if now.get("state") != "running":
            return
        if now != first:
            raise _busy(run, kind)


def _busy(run: RunFolder, kind: str) -> RequestError:
    return RequestError(
        f"name: another {kind} is at work in {run.location}; wait for it, stop it, or give another name"
    )

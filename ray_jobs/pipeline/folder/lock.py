"""One driver at a time in a run's folder: two would put each other's files in order while they are being written."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ipsolve.files.filesystems import reason
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder

LOCK = ".lock"
PATIENCE = 5.0  # a driver that ends lets go of its folder a moment after it has said how it ended
# on an object store: how often a driver says that it is there, and how long one may be silent before it counts as dead
BEAT = 20.0
SILENCE = 90.0
SETTLING = 3.0  # of two that start at once, the one whose name is there after so long


@contextmanager
def alone(run: RunFolder, kind: str) -> Iterator[None]:
    """Hold the folder of a run; ``kind`` is what it is to its user.

    On a file system this is a lock, which a driver that is killed gives back at once. An object store has no locks:
    there a driver writes an object now and then as long as it is at work, whatever it is doing, and one whose object
    stays the same has stopped.

    Raises:
        RequestError: another driver is at work, or the folder cannot be written.
    """
    if not run.local:
        with _lease(run, kind):
            yield
        return
    try:
        os.makedirs(run.root, exist_ok=True)
        file = os.open(run.path(LOCK), os.O_CREAT | os.O_WRONLY)
    except OSError as error:
        raise RequestError("output", f"cannot write to {run.location!r}: {error.strerror}") from None
    try:
        end = time.monotonic() + PATIENCE
        while not _lock(file):
            if time.monotonic() > end:
                raise _busy(run, kind)
            time.sleep(0.1)
        yield
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _lease(run: RunFolder, kind: str) -> Iterator[None]:
    mine = {"owner": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid()}
    _wait_for_silence(run, kind)
    try:
        run.write_json(LOCK, mine | {"beat": 0})
    except OSError as error:
        raise RequestError("output", f"cannot write to {run.location!r}: {reason(error)}") from None
    time.sleep(SETTLING)
    if run.read_json(LOCK).get("owner") != mine["owner"]:
        raise _busy(run, kind)
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            with suppress(OSError):  # who writes results finds out, with better words; four beats may be missed
                run.write_json(LOCK, mine | {"beat": count})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # a beat that is under way would come after the end
        with suppress(OSError):  # the next driver waits until it has been silent for long enough
            run.delete([run.path(LOCK)])


def _wait_for_silence(run: RunFolder, kind: str) -> None:
    first = run.read_json(LOCK)
    if not first:
        return
    who = f"process {first.get('pid')} on {first.get('host')}"
    print(f"{who} may be at work in {run.location}: listening for {SILENCE:.0f} s", flush=True)
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(5.0, SILENCE))
        now = run.read_json(LOCK)
        if not now:
            return
        if now != first:
            raise _busy(run, kind)


def _busy(run: RunFolder, kind: str) -> RequestError:
    return RequestError(
        "name", f"another {kind} is at work in {run.location}; wait for it, stop it, or give another name"
    )

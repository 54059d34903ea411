"""How a run ends, whatever ends it: one driver at a time, its status file, its exit code, one line for the person."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from ipsolve.evaluation.isolation import one_line
from ipsolve.files.filesystems import reason
from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.causes import cause_of
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.lock import alone

SECONDS_BETWEEN_WRITES = 20.0
MAX_NOTES = 200


class Status:
    """``status.json``: how a run is, to be read while it works and after; ``ray job`` turns every exit code but 0 to 1.

    What happened on the way (a batch that was halved, a process that died) is kept under ``notes``, and how far the
    run is under ``progress``.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.notes: list[str] = []
        self._before: dict[str, Any] = {}
        self._progress: dict[str, Any] = {}
        self._written = 0.0
        self._driver = {"pid": os.getpid(), "host": socket.gethostname()}

    def begin(self) -> None:
        """Say that the run is at work; note it if the last driver never said how it ended."""
        before = self._before = self.run.read_json("status.json")
        if not before and self.run.exists("status.json"):
            self.notes.append("status.json cannot be read, as after a power cut; going on from the files of the run")
        if before.get("state") == "running":
            driver = f"process {before.get('pid')} on {before.get('host')}"
            self.notes.append(
                f"the last driver of this run ({driver}) ended at {before.get('time')} or later without a word, as it "
                "does when it is killed; going on from its files"
            )
        self._write("running", None, "")

    def note(self, notes: Iterable[str]) -> None:
        """Keep lines on what happened; of very many the first ones."""
        for note in notes:
            if len(self.notes) < MAX_NOTES:
                self.notes.append(note)
            elif len(self.notes) == MAX_NOTES:
                self.notes.append("and more, which only the log has")

    def progress(self, **facts: Any) -> None:
        """Write how far the run is, unless that was done a moment ago."""
        self._progress = facts
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            try:
                self._write("running", None, "")
            except OSError:  # a full disk is found by those who write results, with their own words
                self._written = time.monotonic()

    def end(self, state: str, exit_code: int, message: str, details: str = "") -> None:
        """Write the outcome, where it can be written."""
        try:
            self._write(state, exit_code, message, details)
        except OSError as error:
            print(f"cannot write status.json in {self.run.location}: {one_line(error)}", file=sys.stderr)

    def refuse(self, message: str) -> None:
        """Write that the request was wrong; a run that had ended before keeps its outcome, it has not been touched."""
        if self._before.get("state") in (None, "running"):
            self.end("wrong request", cli.WRONG_REQUEST, message)
        else:
            self.run.write_json("status.json", self._before)

    def _write(self, state: str, exit_code: int | None, message: str, details: str = "") -> None:
        content = {"state": state, "exit_code": exit_code, "message": message, **self._driver, "time": provenance.now()}
        more = {"progress": self._progress, "notes": self.notes, "details": details}
        content |= {name: value for name, value in more.items() if value}
        self.run.write_json("status.json", content, durable=exit_code is not None)
        self._written = time.monotonic()


def run_to_end(run: RunFolder, kind: str, work: Callable[[Status], tuple[int, str]]) -> int:
    """Do ``work``, which returns (exit code, message), write how it went to ``status.json``, return the exit code.

    Args:
        kind: what it is to its user: ``run`` or ``sweep``.

    Raises:
        RequestError: the folder cannot be written, another driver is at work in it, or the request is wrong.
        KeyboardInterrupt: Ctrl-C, or SIGTERM, which is how ``ray job stop`` ends a driver.
    """
    with alone(run, kind):
        status = Status(run)
        try:
            status.begin()
        except OSError as error:
            raise RequestError("output", f"cannot write to {run.location!r}: {reason(error)}") from None
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            code, message = work(status)
        except (KeyboardInterrupt, SystemExit):  # while Ray starts, its own handler of SIGTERM is in place, which exits
            status.end("interrupted", cli.INTERRUPTED, "interrupted; the same command goes on from here")
            raise KeyboardInterrupt from None
        except RequestError as error:
            status.refuse(redact(str(error)))
            raise
        except Exception as error:  # the outermost handler of a command: one line for the person, the rest for the file
            message = cause_of(error)
            status.end("broken off", cli.FAILED, message, traceback.format_exc())
            print(
                f"the {kind} broke off: {message}\nwhat was solved is kept; the same command goes on from here",
                file=sys.stderr,
            )
            return cli.FAILED
        finally:
            signal.signal(signal.SIGTERM, before)
            gc.collect()  # Ray ends an actor when nothing refers to it, and the frames of an error do, in a circle
        status.end("failed" if code == cli.FAILED else "complete", code, message)
        print(message)
        return code


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt

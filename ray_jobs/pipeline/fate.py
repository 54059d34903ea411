"""How a run ends, whatever ends it: its status file, its exit code, and one line for the person."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ipsolve.errors import RequestError
from ipsolve.filesystems import reason
from ipsolve.results import RunFolder
from ipsolve.secrets import redact
from ray_jobs import cli
from ray_jobs.pipeline import provenance
from ray_jobs.pipeline.isolation import one_line


def run_to_end(run: RunFolder, kind: str, work: Callable[[], tuple[int, str]]) -> int:
    """Do ``work``, which returns (exit code, message), write how it went to ``status.json``, return the exit code.

    Args:
        kind: what it is to its user: ``run`` or ``sweep``.

    Raises:
        RequestError: the folder cannot be written, or ``work`` found the request wrong.
        KeyboardInterrupt: Ctrl-C, or SIGTERM, which is how ``ray job stop`` ends a driver.
    """
    try:
        _status(run, "running", None, "")
    except OSError as error:
        raise RequestError(f"output: cannot write to {run.location!r}: {reason(error)}") from None
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code, message = work()
    except (KeyboardInterrupt, SystemExit):  # while Ray starts, its own handler of SIGTERM is in place, which exits
        _status(run, "interrupted", cli.INTERRUPTED, "interrupted; the same command goes on from here")
        raise KeyboardInterrupt from None
    except RequestError as error:
        _status(run, "wrong request", cli.WRONG_REQUEST, redact(str(error)))
        raise
    except Exception as error:  # the outermost handler of a command: one line for the person, the rest for the file
        # an error from an actor carries a traceback in its text, and what happened is the last line of it
        message = redact((str(error).strip().splitlines() or [one_line(error)])[-1])[:500]
        _status(run, "broken off", cli.FAILED, message, traceback.format_exc())
        print(
            f"the {kind} broke off: {message}\nwhat was solved is kept; the same command goes on from here",
            file=sys.stderr,
        )
        return cli.FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    _status(run, "complete", code, message)
    print(message)
    return code


def _status(run: RunFolder, state: str, exit_code: int | None, message: str, details: str = "") -> None:
    """Write the outcome where it can be read later: ``ray job`` turns every exit code but 0 into 1."""
    status = {"state": state, "exit_code": exit_code, "message": message, "pid": os.getpid(), "time": provenance.now()}
    try:
        run.write_json("status.json", status | ({"details": details} if details else {}))
    except OSError:
        if exit_code is None:
            raise
        print(f"cannot write status.json in {run.location}", file=sys.stderr)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt

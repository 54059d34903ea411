"""What the commands share: exit codes, and errors for people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import yaml

from ipsolve.files.filesystems import reason
from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact
from ipsolve.runs.results import RunFolder

COMPLETE, FAILED, WRONG_REQUEST, SOME_IMAGES_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def printable(text: str) -> str:
    """Return a text as one line that a terminal does not obey: a file may be named by anybody, and hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_command(command: Callable[[], int]) -> int:
    """Return the exit code of a command: 2 and one line on stderr where the request is wrong, 130 on Ctrl-C.

    The line is without what is secret in the environment.
    """
    try:
        return command()
    except RequestError as error:
        print(f"error: {printable(redact(str(error)))}", file=sys.stderr)
        return WRONG_REQUEST
    except yaml.YAMLError as error:  # a request is read with better words
        print(f"error: config.yaml of the run is not YAML: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return WRONG_REQUEST
    except OSError as error:  # a disk or store that the request names and that fails outside of any run
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(redact(place + reason(error)))}", file=sys.stderr)
        return WRONG_REQUEST
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def open_run(location: str) -> RunFolder:
    """Return the folder of a run that is there; RequestError if it is none."""
    run = RunFolder(location)
    if not run.exists("config.yaml"):
        raise RequestError(f"{location} is not a run: it has no config.yaml; allowed: a folder that a job has written")
    return run


def read_config(run: RunFolder) -> dict[str, Any]:
    """Return the configuration that a run wrote down."""
    content: dict[str, Any] = yaml.safe_load(run.read(run.path("config.yaml")))
    return content

"""What the commands share: exit codes, and errors for people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import yaml

from ipsolve.errors import RequestError
from ipsolve.results import RunFolder

COMPLETE, FAILED, WRONG_REQUEST, SOME_IMAGES_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def run_command(command: Callable[[], int]) -> int:
    """Return the exit code of a command: 2 and one line on stderr where the request is wrong, 130 on Ctrl-C."""
    try:
        return command()
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
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
    with run.filesystem.open_input_stream(run.path("config.yaml")) as stream:
        content: dict[str, Any] = yaml.safe_load(stream.read())
    return content

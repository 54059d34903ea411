"""What the commands share: exit codes, and errors for people."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ipsolve.errors import RequestError

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

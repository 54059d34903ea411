"""Rebuild the tables and the report of a run: ``python -m ray_jobs.report RUN``."""

from __future__ import annotations

import argparse
import sys

from ipsolve.errors import RequestError
from ipsolve.report import console_table, open_run, write_report


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 where the request is wrong."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.report", description=__doc__)
    parser.add_argument("run", help="a run folder, such as runs/demo, or its URI")
    location = parser.parse_args(arguments).run
    try:
        view = open_run(location)
        path = write_report(view)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(console_table(view))
    print(f"\nreport: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

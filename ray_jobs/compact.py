"""Turn the small files of a run into few: ``python -m ray_jobs.compact RUN``.

Every batch is a file of its own, because that is what makes it durable. A run that ends is compacted; this is for
one that was broken off, before it is copied or looked into. Rows stay as they are, each once; a torn file is set aside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ray_jobs import cli
from ray_jobs.pipeline.folder.index import RunIndex, rows_of
from ray_jobs.pipeline.folder.lock import alone
from ray_jobs.pipeline.folder.tidy import COMPACT_BYTES, settle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.compact", description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", help="a run folder, such as runs/demo, or its URI")
    options = parser.parse_args(arguments)
    return cli.run_command(lambda: _command(options.run))


def _command(location: str) -> int:
    run = cli.open_run(location)
    with alone(run, "run"):
        before = len(rows_of(run))
        index = RunIndex(run)
        notes = settle(index)  # before: rows that are twice would be so for good
        index.compact(COMPACT_BYTES)
        print(*(f"note: {note}" for note in notes), f"{location}: {before} files are now {len(rows_of(run))}", sep="\n")
    return cli.COMPLETE


if __name__ == "__main__":
    sys.exit(main())

"""Join runs that were computed apart: ``python -m ray_jobs.merge RUN RUN ... --into RUN``.

Two clusters share an experiment by tasks, solvers, seeds or images (``data.offset`` and ``data.limit``); this makes
one run of what each has done. Settings that both have must be the same, and so must the prior and the data behind
them: a cell that was computed differently is refused, never mixed. Runs are copied from, not changed; merging again
after they have grown adds what is new. What the joined configuration asks for and nobody has done is done by
``python -m ray_jobs.evaluate INTO/config.yaml``, and counted with ``--dry-run``. A torn file is left out, and what was
in it is missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import FAILURES, RESULTS, RunFolder, cell_of
from ray_jobs import cli
from ray_jobs.pipeline.folder import content, provenance
from ray_jobs.pipeline.folder.batches import file_name
from ray_jobs.pipeline.folder.index import Content, RunIndex, kind_of, rows_of, scan
from ray_jobs.pipeline.folder.lock import alone
from ray_jobs.pipeline.folder.merge import check_cells, join_configs
from ray_jobs.pipeline.folder.tidy import COMPACT_BYTES, settle
from ray_jobs.report import rebuild


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.merge", description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", help="run folders, or their URIs")
    parser.add_argument("--into", required=True, metavar="RUN", help="the folder of the joined run, new or merged")
    options = parser.parse_args(arguments)
    return cli.run_command(lambda: merge(options.runs, options.into))


def merge(locations: Sequence[str], into: str) -> int:
    """Join runs into the folder ``into``; return the exit code.

    Raises:
        RequestError: they do not belong together, or ``into`` is one of them or a run of its own.
    """
    target = RunFolder(into)
    runs = {location: cli.open_run(location) for location in locations}
    if target.root in {run.root for run in runs.values()}:
        raise RequestError("--into", f"{into} is one of the runs to be joined; give a folder of its own")
    before = target.read_json("provenance.json")
    # what was missing may have been done in it since
    history = [*before.pop("earlier", []), before] if before else []
    if target.exists("config.yaml") and not any("merged_from" in each for each in history):
        raise RequestError("--into", f"{into} holds a run that was not made by merging")
    origins = {location: run.read_json("provenance.json") for location, run in runs.items()}
    for location, origin in origins.items():
        if not origin:
            raise RequestError(f"{location} has no provenance.json: what its rows were computed with is not known")
    config = join_configs({location: cli.read_config(run) for location, run in runs.items()}, into)
    check_cells(origins)
    with alone(target, "run"):
        cells = {name: cell for origin in origins.values() for name, cell in origin["cells"].items()}
        joined = next(iter(origins.values())) | {"cells": cells, "merged_from": origins, "end": provenance.now()}
        joined.pop(content.KEY, None)  # of one of them
        joined["earlier"] = [each for each in history if "merged_from" not in each]
        # first: it is what says that this folder may be merged into
        target.write_json("provenance.json", joined, durable=True)
        written = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
        target.write(target.path("config.yaml"), written, durable=True)
        index = RunIndex(target)
        notes = settle(index)  # before: a torn file must not stand in the way of the same rows, whole
        torn = [path for run in runs.values() for path in _copy(run, target)]
        settle(index)
        index.compact(COMPACT_BYTES)
        target.write_json("provenance.json", joined | content.images_read(target), durable=True)
        rebuilt = rebuild(target)
        counts = f"{_count(index, RESULTS)} results, {_count(index, FAILURES)} failures of {len(runs)} runs"
        message = "; ".join([counts, *(f"{len(torn)} torn files were left out" for _ in torn[:1])])
        status = {"state": "merged", "exit_code": cli.COMPLETE, "message": message, "time": provenance.now()}
        target.write_json("status.json", status)
    notes += [f"torn file {path} was left out" for path in torn]
    lines = [*(f"note: {note}" for note in notes), f"{rebuilt.table}\n", f"report   {rebuilt.page}", message]
    print(*lines, f"what is missing, if anything: {_command(config, target)}", sep="\n")
    return cli.COMPLETE


def _command(config: dict[str, Any], target: RunFolder) -> str:
    kind = "posterior" if "problems" in config else "evaluate"
    return shlex.join(["python", "-m", f"ray_jobs.{kind}", target.address("config.yaml")])


def _copy(run: RunFolder, target: RunFolder) -> list[str]:
    """Add the rows of a run to another; return its torn files, which are left out.

    The run may be at work, and its actors put files that were listed into larger ones: then it is listed again.
    """
    seen, torn, complete = set[str](), list[str](), False
    while not complete:
        paths = [path for path in rows_of(run) if path not in seen]
        seen.update(paths)
        index, damaged = scan(run, paths)
        torn += damaged
        copied = _copy_files(run, index, target)
        complete = copied + len(damaged) == len(paths)
    return torn


def _copy_files(run: RunFolder, index: Mapping[str, Content], target: RunFolder) -> int:
    """Copy files that are not there yet; return how many of them are there now."""
    there, count = set(rows_of(target)), 0
    for path, rows in index.items():
        folder = os.path.dirname(path).removeprefix(f"{run.root}/")
        # by the rows that are in it, not by its batch, some of which may have failed: what has the name is the same
        copy = target.path(folder, file_name(cell_of(path), rows.image_ids.to_pylist()))
        if copy not in there:
            try:
                target.write(copy, run.read(path))
            except FileNotFoundError:  # of the run: it was put into a larger one
                continue
        count += 1
    return count


def _count(index: RunIndex, folder: str) -> int:
    return sum(len(each.image_ids) for path, each in index.present.items() if kind_of(index.run, path) == folder)


if __name__ == "__main__":
    sys.exit(main())

"""Join runs that were computed apart: ``python -m ray_jobs.merge RUN RUN ... --into RUN``.

Two clusters share an experiment by tasks, solvers, seeds or images (``data.offset`` and ``data.limit``); this makes
one run of what each has done. Settings that both have must be the same, and so must the prior and the data behind
them: a cell that was computed differently is refused, never mixed. Runs are copied from, not changed; merging again
after they have grown adds what is new. What the joined configuration asks for and nobody has done is counted, and
``python -m ray_jobs.evaluate INTO/config.yaml`` does it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from ipsolve.errors import RequestError
from ipsolve.results import FAILURES, REFERENCES, RESULTS, RunFolder
from ray_jobs import cli
from ray_jobs.pipeline import provenance
from ray_jobs.pipeline.alone import alone
from ray_jobs.pipeline.joining import check_cells, join_configs
from ray_jobs.pipeline.upkeep import compact, each_once, rows_of, scan
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
        raise RequestError(f"--into: {into} is one of the runs to be joined; give a folder of its own")
    if target.exists("config.yaml") and "merged_from" not in target.read_json("provenance.json"):
        raise RequestError(f"--into: {into} holds a run that was not made by merging")
    origins = {location: run.read_json("provenance.json") for location, run in runs.items()}
    config = join_configs({location: cli.read_config(run) for location, run in runs.items()}, into)
    check_cells(origins)
    with alone(target, "run"):
        target.write(target.path("config.yaml"), yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        cells = {name: cell for origin in origins.values() for name, cell in origin["cells"].items()}
        joined = next(iter(origins.values())) | {"cells": cells, "merged_from": origins, "end": provenance.now()}
        target.write_json("provenance.json", joined)
        for run in runs.values():
            _copy(run, target)
        index, torn = scan(target, rows_of(target))
        each_once(target, index)
        compact(target)
        rebuilt = rebuild(target)
        counts = f"{_count(target, RESULTS)} results, {_count(target, FAILURES)} failures of {len(runs)} runs"
        message = "; ".join([counts, *(f"{len(torn)} torn files were left out" for _ in torn[:1])])
        status = {"state": "merged", "exit_code": cli.COMPLETE, "message": message, "time": provenance.now()}
        target.write_json("status.json", status)
    print(f"{rebuilt.table}\n\nreport   {rebuilt.page}\n{message}")
    print(f"what is missing, if anything: python -m {_kind(config)} {into}/config.yaml")
    return cli.COMPLETE


def _kind(config: dict[str, Any]) -> str:
    return "ray_jobs.posterior" if "problems" in config else "ray_jobs.evaluate"


def _copy(run: RunFolder, target: RunFolder) -> None:
    there = set(rows_of(target))
    for folder in (RESULTS, FAILURES, REFERENCES):
        for path in run.files(folder):
            name = path.removeprefix(f"{run.root}/")
            # named by its cell and its images: what is there under the name is the same
            if target.path(name) not in there:
                target.write(target.path(name), run.read(path))


def _count(run: RunFolder, folder: str) -> int:
    index, _ = scan(run, run.files(folder))
    return sum(map(len, index.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Send runs to MLflow, and look at them there.

    python -m ray_jobs.track runs/demo
    python -m ray_jobs.track runs/demo --open
    python -m ray_jobs.track runs/pixel runs/latent --open

A parent run for the run, a child run for each (task, solver), at the times of their work. The Parquet files are the
record and this is a copy of their summary: sending again updates the same MLflow runs, and a server that is slow or
down costs seconds. ``--open`` prints links to prepared views; where the store is a file or a database, it serves it on
127.0.0.1 until Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from ipsolve.evaluation.isolation import one_line
from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact
from ipsolve.runs import curves
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.folder.lock import alone
from ray_jobs.tracking import overview
from ray_jobs.tracking.artifacts import log_artifacts
from ray_jobs.tracking.copies import Copies, Pair, curve, numbers, pairs_of
from ray_jobs.tracking.links import Shown, links
from ray_jobs.tracking.serving import serve
from ray_jobs.tracking.store import twice
from ray_jobs.tracking.times import solver_spans

UNFINISHED = ("running", "interrupted", "broken off")  # states of status.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.track", description="Send runs to MLflow.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run or of a sweep")
    parser.add_argument("--open", action="store_true", help="print links to views of them; serve them on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of that server; a free one if left out")
    options = parser.parse_args(arguments)
    return cli.run_command(lambda: _command(options.runs, options.open, options.port))


def _command(locations: Sequence[str], opened: bool, port: int) -> int:
    code = cli.COMPLETE
    for location in locations:
        run = RunFolder(location)
        if _is_sweep(run):  # sent by its own command, which knows its trials
            if not opened:
                raise RequestError(f"{location} is a sweep: the command that ran it sends it; allowed here: --open")
            continue
        place, sent = _send_as_it_is(run, location)
        print(f"MLflow   {place}")
        code = code if sent else cli.FAILED
    if opened and code == cli.COMPLETE:
        serve([RunFolder(location) for location in locations], port)
    return code


def _is_sweep(run: RunFolder) -> bool:
    return run.exists("config.yaml") and "space" in cli.read_config(run)


def _send_as_it_is(run: RunFolder, location: str) -> tuple[str, bool]:
    unfinished = run.read_json("status.json").get("state") in UNFINISHED
    if run.exists("config.yaml") and run.exists("provenance.json") and unfinished:
        with alone(run, "run"):  # one at work sends itself
            return send_unfinished(run)
    if not run.exists("config.yaml") or not run.exists("summary.csv"):
        raise RequestError(f"{location} is not a finished run: it has no config.yaml and summary.csv")
    return send(run)


def send(run: RunFolder, sent: Mapping[Pair, int] | None = None) -> tuple[str, bool]:
    """Send a finished run; return where it is, or one line on why it is not there and how to send it later, and which.

    Args:
        run: the run.
        sent: up to which time the points of the curve of a (task, solver) are there already.
    """
    return _trying(run, lambda: _send(run, sent or {}))


def send_unfinished(run: RunFolder) -> tuple[str, bool]:
    """Send what there is of a run whose driver has ended before it was done, and mark it so."""
    return _trying(run, lambda: _send_unfinished(run))


def _trying(run: RunFolder, action: Callable[[], str]) -> tuple[str, bool]:
    try:
        return redact(twice(action)), True
    except Exception as error:  # tracking never costs a result, whatever a server or its client does
        later = f"python -m ray_jobs.track {shlex.quote(run.location)}"
        return f"not sent ({one_line(error)}); send it later with: {later}", False


def _send(run: RunFolder, sent: Mapping[Pair, int]) -> str:
    copies, rows = Copies(run), _summary(run)
    totals, found = overview.totals(rows, copies.config)
    tags = {**found, "mlflow.note.content": overview.description(run, copies.config, rows)}
    parent, end = copies.open_parent(tags), copies.end
    copies.log_data()
    copies.log(parent, numbers(totals, end))
    points, spans = pairs_of(copies.provenance, curves.read(run)), solver_spans(copies.provenance)
    children: dict[Pair, str] = {}
    for row in rows:
        pair = row["task"], row["solver"]
        begun, ended = spans.get(pair, (copies.start, end))
        child = children[pair] = copies.open_child(pair, overview.cell_tags(copies.config, row), begun)
        copies.log(child, [*curve(points.get(pair, []), sent.get(pair, -1)), *numbers(overview.numbers(row), end)])
        copies.finish(child, "FINISHED", ended)
    log_artifacts(copies, children)
    copies.finish(parent, "FINISHED", end)
    return "\n".join([copies.place, *links([Shown.of(run)])])


def _send_unfinished(run: RunFolder) -> str:
    copies = Copies(run)
    parent = copies.open_parent({"mlflow.note.content": "not complete: the same command goes on with it"})
    points, spans = pairs_of(copies.provenance, curves.read(run)), solver_spans(copies.provenance)
    end = max([copies.end, *(point.time for own in points.values() for point in own)])
    for pair, own in points.items():
        tags = overview.cell_tags(copies.config, {"task": pair[0], "solver": pair[1]})
        child = copies.open_child(pair, tags, min(own[0].time, spans.get(pair, (own[0].time, 0))[0]))
        copies.log(child, [*curve(own), *numbers(curves.latest(own), own[-1].time)])
        copies.finish(child, "KILLED", own[-1].time)
    copies.finish(parent, "KILLED", end)
    return copies.place


def _summary(run: RunFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.read(run.path("summary.csv")).decode())))


if __name__ == "__main__":
    sys.exit(main())

"""Send a finished run to MLflow.

    python -m ray_jobs.track runs/demo

A parent run for the run, a child run for each (task, solver), at the times of their work. The Parquet files are the
record and this is a copy of their summary: sending again updates the same MLflow runs, and a server that is slow or
down costs seconds.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ipsolve.evaluation.isolation import one_line
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.tracking import overview
from ray_jobs.tracking.described import describe
from ray_jobs.tracking.store import Memory, client_of, digest, experiment_of, log, store_of, twice
from ray_jobs.tracking.times import run_span, solver_spans

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = ("report.html", "report.md", "summary.csv", "comparisons.csv", "config.yaml", "provenance.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.track", description="Send a finished run to MLflow.")
    parser.add_argument("run", help="the folder of a run")
    options = parser.parse_args(arguments)

    def command() -> int:
        run = RunFolder(options.run)
        if not run.exists("config.yaml") or not run.exists("summary.csv"):
            raise RequestError(f"{options.run} is not a finished run: it has no config.yaml and summary.csv")
        place, sent = send(run)
        print(f"MLflow   {place}")
        return cli.COMPLETE if sent else cli.FAILED

    return cli.run_command(command)


def send(run: RunFolder) -> tuple[str, bool]:
    """Send a run; return where it is, or one line on why it is not there and how to send it later, and which it is."""
    try:
        return twice(lambda: _send(run)), True
    except Exception as error:  # tracking never costs a result, whatever a server or its client does
        later = f"python -m ray_jobs.track {shlex.quote(run.location)}"
        return f"not sent ({one_line(error)}); send it later with: {later}", False


def _send(run: RunFolder) -> str:
    from mlflow.entities import Metric

    config = cli.read_config(run)
    provenance = run.read_json("provenance.json")
    uri, artifacts = store_of(run, config)
    client = client_of(uri)
    experiment_id = experiment_of(client, config["tracking"]["experiment"], artifacts)
    memory = Memory(run, f"{config['tracking']['uri'] or 'local'}#{experiment_id}", experiment_id)
    described = describe(config, provenance)
    shared = described.parameters
    rows = _summary(run)
    start, end = run_span(provenance)
    if not end:
        raise RequestError("provenance.json has no times: it is absent, or cannot be read, as after a power cut")
    totals, found = overview.totals(rows, config)
    origin = overview.origin_tags(run, config, provenance)
    tags = {**described.extent, **origin, **found, "mlflow.note.content": overview.description(run, config, rows)}
    # a parameter cannot change in MLflow, so that another setting is another MLflow run
    key = f"{described.kind}/{digest([shared, config['baseline']])}"
    parent = memory.run_of(client, key, config["name"], tags, start)
    metrics = [Metric(name, value, end, 0) for name, value in totals.items()]
    log(client, parent, shared | {"baseline": config["baseline"]}, metrics, "FINISHED", end)
    client.log_inputs(parent, described.datasets())
    _log_artifacts(client, parent, run)
    spans = solver_spans(provenance)
    for row in rows:
        # no solver of this name: the floor of a posterior run
        solver = config["solvers"].get(row["solver"], {})
        parameters = {**shared, **described.tasks[row["task"]], "task": row["task"], **solver}
        parameters |= {"solver_name": row["solver"]}
        key = f"{row['task']}/{row['solver']}/{digest([parameters, parent])}"
        tags = {"mlflow.parentRunId": parent, **described.extent, **origin, **overview.cell_tags(config, row)}
        begun, ended = spans.get((row["task"], row["solver"]), (start, end))
        child = memory.run_of(client, key, f"{row['task']} / {row['solver']}", tags, begun)
        metrics = [Metric(name, value, ended, 0) for name, value in overview.numbers(row).items()]
        log(client, child, parameters, metrics, "FINISHED", ended)
    return f"{uri}, experiment {config['tracking']['experiment']!r}, run {parent}"


def _log_artifacts(client: MlflowClient, run_id: str, run: RunFolder) -> None:
    # only names as we give them: an object in a store may be called "../x", and must not become a file elsewhere
    listed = [path.removeprefix(run.path("figures/")) for path in run.files("figures", suffix=".svg")]
    figures = [f"figures/{name}" for name in listed if re.fullmatch(r"[\w-]+\.svg", name)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "figures").mkdir()
        for name in [*filter(run.exists, ARTIFACTS), *figures]:
            Path(folder, name).write_bytes(run.read(run.path(name)))
        client.log_artifacts(run_id, folder)


def _summary(run: RunFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.read(run.path("summary.csv")).decode())))


if __name__ == "__main__":
    sys.exit(main())

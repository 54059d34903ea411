"""Evaluate solvers on tasks over the images of a data source.

    python -m ray_jobs.evaluate CONFIG.yaml [key=value ...] [--dry-run] [--retry-failed]
    python -m ray_jobs.evaluate --list

The same command again does what is missing and nothing else. Exit codes: 0 complete, 2 the request is wrong,
3 complete but some images failed, 1 the run broke off (what was solved is kept).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import yaml

from ipsolve.config import load_config
from ipsolve.errors import RequestError
from ipsolve.experiment import Experiment
from ipsolve.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline import provenance
from ray_jobs.pipeline.isolation import one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.evaluate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as solvers.resample.num_steps=100")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--list", action="store_true", help="print all operators, solvers, priors and metrics and stop")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try images with a recorded failure again (otherwise kept: reading and solving are deterministic)",
    )
    options = parser.parse_intermixed_args(arguments)
    return cli.run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    from ray_jobs.pipeline.listing import describe_plan, list_registered

    if options.list:
        print(list_registered())
        return cli.COMPLETE
    if options.config is None:
        raise RequestError("which configuration? python -m ray_jobs.evaluate CONFIG.yaml")
    experiment = Experiment.of(load_config(options.config, options.overrides))
    if options.dry_run:
        from ray_jobs.pipeline.cluster import plan_share
        from ray_jobs.pipeline.plan import Plan

        plan = Plan.of(experiment)
        print(describe_plan(plan, plan_share(experiment.config.compute, len(plan.batches))))
        return cli.COMPLETE
    return evaluate(experiment, options.retry_failed)


def evaluate(experiment: Experiment, retry_failed: bool = False) -> int:
    """Do what is missing of an experiment, write its tables and report, and send it to MLflow; return the exit code."""
    run = _open(experiment)
    # ray job stop: end as Ctrl-C does, so that the run's status is written
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code, message = _evaluate(experiment, run, retry_failed)
    except KeyboardInterrupt:
        _status(run, "interrupted", cli.INTERRUPTED, "interrupted; the same command goes on from here")
        raise
    except RequestError as error:
        _status(run, "wrong request", cli.WRONG_REQUEST, str(error))
        raise
    except Exception as error:  # the outermost handler of a command: one line for the person, the rest for the file
        # an error from an actor carries a traceback in its text, and what happened is the last line of it
        message = (str(error).strip().splitlines() or [one_line(error)])[-1][:500]
        _status(run, "broken off", cli.FAILED, message, traceback.format_exc())
        print(
            f"the run broke off: {message}\nwhat was solved is kept; the same command goes on from here",
            file=sys.stderr,
        )
        return cli.FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    _status(run, "complete", code, message)
    print(message)
    return code


def _evaluate(experiment: Experiment, run: RunFolder, retry_failed: bool) -> tuple[int, str]:
    from ray_jobs import track
    from ray_jobs.pipeline import aggregate
    from ray_jobs.pipeline.cluster import plan_share
    from ray_jobs.pipeline.execute import execute
    from ray_jobs.pipeline.listing import describe_plan
    from ray_jobs.pipeline.plan import Plan, outcome_counts
    from ray_jobs.pipeline.progress import Progress
    from ray_jobs.pipeline.upkeep import tidy

    cells = [experiment.reference_cell, *experiment.cells]
    notes = tidy(run, cells, set(experiment.image_ids), retry_failed)
    plan = Plan.of(experiment)
    share = plan_share(experiment.config.compute, len(plan.batches))
    print(*(f"note: {note}" for note in notes), describe_plan(plan, share), sep="\n", flush=True)
    origin = provenance.describe(experiment, str(share), run.read_json("provenance.json"), bool(plan.batches))
    run.write(
        run.path("config.yaml"), yaml.safe_dump(experiment.resolved(), sort_keys=False, allow_unicode=True).encode()
    )
    run.write_json("provenance.json", origin)
    if plan.batches:
        with Progress(plan) as progress:
            for report in execute(plan, share):
                progress.update(report)
    done, failed, missing = outcome_counts(experiment, cells)
    if missing:
        raise RuntimeError(f"{missing} images have neither a result nor a failure")
    run.write_json("provenance.json", origin | {"end": origin["end"] or provenance.now()})
    table, notes = aggregate.aggregate(run, plan)
    tracking, _ = track.send(run)
    places = aggregate.where_things_are(run, experiment.config.run_location, tracking)
    print(*(f"note: {note}" for note in notes), f"\n{table}\n", places, sep="\n")
    if failed:
        return (
            cli.SOME_IMAGES_FAILED,
            f"complete, but {failed} of {done + failed} images failed: see {experiment.config.run_location}/failures",
        )
    return cli.COMPLETE, f"complete: {done} images"


def _open(experiment: Experiment) -> RunFolder:
    try:
        run = RunFolder(experiment.config.run_location)
        _status(run, "running", None, "")
    except (OSError, ValueError) as error:
        raise RequestError(f"output: cannot write to {experiment.config.run_location!r}: {one_line(error)}") from None
    return run


def _status(run: RunFolder, state: str, exit_code: int | None, message: str, details: str = "") -> None:
    """Write the outcome where it can be read later: ``ray job`` turns every exit code but 0 into 1."""
    status = {"state": state, "exit_code": exit_code, "message": message, "pid": os.getpid(), "time": provenance.now()}
    try:
        run.write_json("status.json", status | ({"details": details} if details else {}))
    except OSError:
        if exit_code is None:
            raise
        print(f"cannot write status.json in {run.root}", file=sys.stderr)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

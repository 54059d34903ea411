"""Search the hyper-parameters of a solver on a validation split.

    python -m tuning.sweep SPACE.yaml [key=value ...] [--dry-run]

The same command again does what is missing and nothing else; with ``search.num_trials`` raised it goes on with a
finished sweep.
Exit codes: 0 complete, 2 the request is wrong, 1 the sweep broke off (what was solved is kept), or no trial did all
images.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import yaml

from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.cluster.allocation import Allocation
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.status import Status, run_to_end
from tuning.allocation import allocation_of
from tuning.ledger import STUDY, Ledger, grid_of
from tuning.request import Sweep, load_sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tuning.sweep", description=__doc__.split("\n", 1)[0])
    parser.add_argument("space", help="a YAML file, see tuning/spaces/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as search.num_trials=80")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    options = parser.parse_intermixed_args(arguments)
    return cli.run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    sweep = Sweep.of(load_sweep(options.space, options.overrides))
    grid_of(sweep)  # one that is too large is a wrong request, before anything starts
    if options.dry_run:
        print(describe(sweep, allocation_of(sweep)))
        return cli.COMPLETE
    return run_sweep(sweep)


def describe(sweep: Sweep, allocation: Allocation) -> str:
    """Return the plan of a sweep as lines to print before anything starts."""
    config, search = sweep.config, sweep.config.search
    objective = " and ".join(f"{each.mode} {each.name}" for each in sweep.objectives)
    standardised = ", mean over the tasks in units of the reference" if len(config.tasks) > 1 else ""
    asha = f", best 1/{search.reduction_factor} go on" if sweep.scheduler == "asha" else ""
    gpus = config.compute.gpus_per_trial
    ignored = gpus != "auto" and gpus > allocation.gpus
    lines = [
        f"sweep      {config.run_location}",
        f"solver     {' '.join(f'{key}={value}' for key, value in config.solver.items())}",
        f"tasks      {', '.join(config.tasks)}",
        f"data       {search.rungs[-1]} of {len(sweep.experiment.image_ids)} images of {config.data.get('source')}",
        f"objective  {objective}{standardised}",
        f"search     {search.algorithm}, {search.num_trials} trials",
        f"stopping   {sweep.scheduler}{asha}; reports after {', '.join(map(str, search.rungs))} images",
        f"compute    {allocation}, batch size {config.compute.batch_size}, {config.compute.precision}",
        *([f"           no GPU here: gpus_per_trial={gpus:g} is ignored"] if ignored else []),
        f"evaluates  {config.evaluate.data.get('source')}, in {config.run_location}/best.yaml",
        "space",
    ]
    for dimension in sweep.space.dimensions:
        when = "".join(f" when {name} is {' or '.join(map(str, of))}" for name, of in dimension.when.items())
        entry = {key: value for key, value in config.space[dimension.field].items() if key != "when"}
        start = sweep.reference.get(dimension.field, "-")
        lines.append(f"  {dimension.field:22} {entry}{when}; trial 0: {start}".replace("'", ""))
    return "\n".join(lines)


def run_sweep(sweep: Sweep) -> int:
    """Do what is missing of a sweep, write its outcome and send it to MLflow; return the exit code."""
    run = RunFolder(sweep.config.run_location)
    return run_to_end(run, "sweep", lambda status: _search(sweep, run, status))


def _search(sweep: Sweep, run: RunFolder, status: Status) -> tuple[int, str]:
    from tuning import report, tracking
    from tuning.live import Live
    from tuning.outcome import best_trials, trial_table, write_outcome
    from tuning.problem import Scores
    from tuning.search import search

    ledger = Ledger(sweep, run, lambda line: print(line, flush=True))
    allocation, missing = allocation_of(sweep), ledger.missing()
    print(describe(sweep, allocation), f"{missing} of {ledger.num_trials} trials missing", sep="\n", flush=True)
    before = provenance.read(run, status.note)
    origin = provenance.describe(sweep.experiment, str(allocation), before, missing > 0)
    config = yaml.safe_dump(dataclasses.asdict(sweep.config), sort_keys=False, allow_unicode=True).encode()
    run.write(run.path("config.yaml"), config, durable=True)
    run.write_json("provenance.json", origin, durable=True)
    problem = sweep.problem()
    scores = Scores(problem, run)
    if missing:
        try:
            with Live(lambda: tracking.Copies(run, sweep, ledger, scores)):
                search(ledger, problem, run.root, allocation, config)
        except (Exception, KeyboardInterrupt):  # what there is can be looked at before it goes on
            tracking.send(run, sweep, ledger, scores, trial_table(sweep, ledger, scores))
            raise
    if ledger.missing():
        raise RuntimeError(f"{ledger.missing()} trials have not been run")
    run.write_json("provenance.json", origin | {"end": origin["end"] or provenance.now()}, durable=True)
    table = write_outcome(run, sweep, ledger, scores)
    location, best = sweep.config.run_location, best_trials(sweep, ledger)
    notes = report.write_report(run, sweep, ledger, scores, table)
    place = tracking.send(run, sweep, ledger, scores, table)
    print(*(f"note: {note}" for note in notes), f"\n{report.console(sweep, table, best)}\n", sep="\n")
    print(f"report   {location}/report.html\ntrials   {location}/trials.csv, trials.parquet, {STUDY}\nMLflow   {place}")
    if not best:  # nothing that the same command could go on with
        reason = table["error"].dropna().iloc[0]
        return cli.FAILED, f"all {len(table)} trials are done, and none has all images; trial 0: {reason}"
    evaluate = f"python -m ray_jobs.evaluate {location}/best.yaml"
    return cli.COMPLETE, f"complete: {len(table)} trials; the gain on other images: {evaluate}"


if __name__ == "__main__":
    sys.exit(main())

"""Search the hyper-parameters of a solver on a validation split.

    python -m tuning.sweep SPACE.yaml [key=value ...] [--dry-run]

The same command again does what is missing and nothing else; with ``search.num_trials`` raised it goes on with a
finished sweep.
Exit codes: 0 complete, 2 the request is wrong, 1 the sweep broke off (what was solved is kept).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import yaml

from ipsolve.config import Compute
from ipsolve.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline import provenance
from ray_jobs.pipeline.cluster import Share, plan_share
from ray_jobs.pipeline.fate import run_to_end
from tuning.ledger import STUDY, Ledger
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
    if options.dry_run:
        print(describe(sweep, share_of(sweep)))
        return cli.COMPLETE
    return run_sweep(sweep)


def share_of(sweep: Sweep) -> Share:
    """Return the trials that run at once and what each of them gets."""
    compute = sweep.config.compute
    gpus = plan_share(Compute(), 1).gpus > 0
    wanted = Compute(
        num_actors=compute.concurrent_trials,
        gpus_per_actor=compute.gpus_per_trial if gpus else 0.0,
        cpus_per_actor=compute.cpus_per_trial,
    )
    return plan_share(wanted, sweep.config.search.num_trials)


def describe(sweep: Sweep, share: Share) -> str:
    """Return the plan of a sweep as lines to print before anything starts."""
    config, search = sweep.config, sweep.config.search
    objective = " and ".join(f"{each.mode} {each.name}" for each in sweep.objectives)
    standardised = ", mean over the tasks in units of the reference" if len(config.tasks) > 1 else ""
    asha = f", best 1/{search.reduction_factor} go on" if sweep.scheduler == "asha" else ""
    gpus = config.compute.gpus_per_trial
    ignored = gpus != "auto" and gpus > share.gpus
    lines = [
        f"sweep      {config.run_location}",
        f"solver     {' '.join(f'{key}={value}' for key, value in config.solver.items())}",
        f"tasks      {', '.join(config.tasks)}",
        f"data       {search.rungs[-1]} of {len(sweep.experiment.image_ids)} images of {config.data.get('source')}",
        f"objective  {objective}{standardised}",
        f"search     {search.algorithm}, {search.num_trials} trials",
        f"stopping   {sweep.scheduler}{asha}; reports after {', '.join(map(str, search.rungs))} images",
        f"compute    {share}, batch size {config.compute.batch_size}, {config.compute.precision}",
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
    return run_to_end(run, "sweep", lambda status: (cli.COMPLETE, _search(sweep, run)))


def _search(sweep: Sweep, run: RunFolder) -> str:
    from tuning import report, tracking
    from tuning.outcome import best_trials, write_outcome
    from tuning.problem import Scores
    from tuning.search import search

    ledger = Ledger(sweep, run, lambda line: print(line, flush=True))
    share, missing = share_of(sweep), ledger.missing()
    print(describe(sweep, share), f"{missing} of {ledger.num_trials} trials missing", sep="\n", flush=True)
    origin = provenance.describe(sweep.experiment, str(share), run.read_json("provenance.json"), missing > 0)
    config = yaml.safe_dump(dataclasses.asdict(sweep.config), sort_keys=False, allow_unicode=True)
    run.write(run.path("config.yaml"), config.encode())
    run.write_json("provenance.json", origin)
    problem = sweep.problem()
    if missing:
        search(ledger, problem, run.root, share)
    if ledger.missing():
        raise RuntimeError(f"{ledger.missing()} trials have not been run")
    run.write_json("provenance.json", origin | {"end": origin["end"] or provenance.now()})
    scores = Scores(problem, run)
    table = write_outcome(run, sweep, ledger, scores)
    best = best_trials(sweep, ledger)
    if not best:
        raise RuntimeError(f"no trial did all images; the first: {table['error'].dropna().iloc[0]}")
    notes = report.write_report(run, sweep, ledger, scores, table)
    place = tracking.send(run, sweep, ledger, scores, table)
    location = sweep.config.run_location
    print(*(f"note: {note}" for note in notes), f"\n{report.console(sweep, table, best)}\n", sep="\n")
    print(f"report   {location}/report.html\ntrials   {location}/trials.csv, trials.parquet, {STUDY}\nMLflow   {place}")
    return f"complete: {len(table)} trials; the gain on other images: python -m ray_jobs.evaluate {location}/best.yaml"


if __name__ == "__main__":
    sys.exit(main())

"""Measure solvers against posteriors that are known in closed form.

    python -m ray_jobs.posterior CONFIG.yaml [key=value ...] [--dry-run] [--retry-failed]

The same command again does what is missing and nothing else. Exit codes as of ray_jobs.evaluate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import pyarrow as pa

from ipsolve.citation import bibliography, cited
from ipsolve.posterior.config import load_posterior_config
from ipsolve.posterior.experiment import PosteriorExperiment
from ipsolve.posterior.report import console_table, open_run, write_report
from ipsolve.posterior.results import SAMPLE_METRICS, SAMPLE_SCHEMA
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import planned
from ray_jobs import cli
from ray_jobs.pipeline.job import Job, dry_run, run_job
from ray_jobs.pipeline.posterior_evaluator import SamplingWork, loader
from ray_jobs.pipeline.stages.worker import Loader, Work


class PosteriorJob(Job):
    """Problems posed, sampled and compared with exact samples."""

    unit = "problems"
    experiment: PosteriorExperiment

    def facts(self) -> list[str]:
        config = self.experiment.config
        lines = [
            f"problems {name}: {spec.num_problems} of {spec.label}" for name, spec in self.experiment.problems.items()
        ]
        return [*lines, f"samples  {config.samples} of each, {config.slices} slices"]

    def loader(self) -> Loader:
        return loader(self.experiment)

    def work(self, device: str, num_threads: int) -> Work:
        return SamplingWork.of(self.experiment, device, num_threads)

    def scores(self, run: RunFolder) -> pa.Table:
        names = ("image_id", "task", "solver", "seed", *SAMPLE_METRICS)
        return planned(run.results(names, schema=SAMPLE_SCHEMA), set(self.experiment.image_ids))

    def tabulate(self, run: RunFolder) -> tuple[str, Callable[[], str]]:
        view = open_run(run, self.experiment)
        return console_table(view), lambda: write_report(view)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.posterior", description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", help="a YAML file, see configs/posterior/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as samples=500")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--cite", action="store_true", help="print BibTeX of what the run uses and stop")
    parser.add_argument("--retry-failed", action="store_true", help="try problems with a recorded failure again")
    options = parser.parse_intermixed_args(arguments)

    def command() -> int:
        experiment = PosteriorExperiment.of(load_posterior_config(options.config, options.overrides))
        if options.cite:
            solvers = [entry.solver for entry in experiment.entries.values()]
            print(bibliography(cited([*solvers, *experiment.problems.values()])))
            return cli.COMPLETE
        return dry_run(PosteriorJob(experiment)) if options.dry_run else measure(experiment, options.retry_failed)

    return cli.run_command(command)


def measure(experiment: PosteriorExperiment, retry_failed: bool = False) -> int:
    """Do what is missing of an experiment, write its tables and report, and send it to MLflow; return the exit code."""
    return run_job(PosteriorJob(experiment), retry_failed)


if __name__ == "__main__":
    sys.exit(main())

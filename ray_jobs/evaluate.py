"""Evaluate solvers on tasks over the images of a data source.

    python -m ray_jobs.evaluate CONFIG.yaml [key=value ...] [--dry-run] [--retry-failed]
    python -m ray_jobs.evaluate CONFIG.yaml --cite
    python -m ray_jobs.evaluate --list

The same command again does what is missing and nothing else. Exit codes: 0 complete, 2 the request is wrong,
3 complete but some images failed, 1 the run broke off (what was solved is kept).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from ipsolve.citation import bibliography
from ipsolve.report import console_table, open_run, write_report
from ipsolve.requests.errors import RequestError
from ipsolve.runs.citations import citations
from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder, image_metrics
from ipsolve.runs.summary import planned, write_summary
from ray_jobs import cli
from ray_jobs.pipeline.folder.content import images_read
from ray_jobs.pipeline.folder.finish import gaps
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.job import Job, dry_run, run_job
from ray_jobs.pipeline.listing import absent_metrics, left_out, list_registered
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Loader, Work
from ray_jobs.pipeline.stages.workload import Workload


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.evaluate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as solvers.resample.num_steps=100")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--cite", action="store_true", help="print BibTeX of what the run uses and stop")
    parser.add_argument("--list", action="store_true", help="print all operators, solvers, priors and metrics and stop")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try images with a recorded failure again (otherwise kept: reading and solving are deterministic)",
    )
    options = parser.parse_intermixed_args(arguments)
    return cli.run_command(lambda: _command(options))


class Evaluation(Job):
    """Images degraded, solved and scored."""

    unit = "images"
    experiment: Experiment

    def facts(self) -> list[str]:
        experiment = self.experiment
        kind = "latent" if experiment.prior_summary.latent else "pixel"
        source = experiment.config.data.get("source")
        return [
            f"data     {len(experiment.image_ids)} images of {source} at {experiment.signal}",
            *left_out(experiment.source.left_out()),
            f"prior    {experiment.prior.name} ({kind}), fingerprint {experiment.prior.fingerprint()[:12]}",
            *absent_metrics(experiment.missing_metrics.items()),
        ]

    def loader(self) -> Loader:
        return partial(load, self.experiment.source, size=self.experiment.image_size)

    def work(self, device: str, num_threads: int) -> Work:
        return Workload.of(self.experiment, device, num_threads)

    def seconds(self, index: RunIndex) -> dict[str, float]:
        return index.seconds(self.experiment.cells)

    def images_read(self, run: RunFolder) -> dict[str, Any]:
        return images_read(run, self.experiment.image_ids)

    def scores(self, run: RunFolder) -> pa.Table:
        names = ("image_id", "task", "solver", "seed", "sample", *image_metrics(), "consistency")
        return planned(run.results(names), set(self.experiment.image_ids)).drop_columns("sample")

    def gaps(self, index: RunIndex) -> list[str]:
        asked = self.experiment.asked
        columns = {name: name for name in asked.images}
        columns |= {name: asked.features[metric.features].column for name, metric in asked.sets.items()}
        return gaps(index, self.experiment.cells, columns, asked.missing)

    def tabulate(self, run: RunFolder) -> tuple[str, Callable[[], str]]:
        image_ids = set(self.experiment.image_ids)
        pairs = list(dict.fromkeys((cell.task, cell.solver) for cell in self.experiment.cells))
        sets = self.experiment.asked.sets.values()
        summary = write_summary(run, pairs, self.experiment.config.baseline, image_ids, sets)
        view = open_run(run, summary, image_ids)
        return console_table(view), lambda: write_report(view)


def evaluate(experiment: Experiment, retry_failed: bool = False) -> int:
    """Do what is missing of an experiment, write its tables and report, and send it to MLflow; return the exit code."""
    return run_job(Evaluation(experiment), retry_failed)


def _command(options: argparse.Namespace) -> int:
    if options.list:
        print(list_registered())
        return cli.COMPLETE
    if options.config is None:
        raise RequestError("which configuration? python -m ray_jobs.evaluate CONFIG.yaml")
    experiment = Experiment.of(load_config(options.config, options.overrides))
    if options.cite:
        print(bibliography(citations(experiment.resolved())))
        return cli.COMPLETE
    return dry_run(Evaluation(experiment)) if options.dry_run else evaluate(experiment, options.retry_failed)


if __name__ == "__main__":
    sys.exit(main())

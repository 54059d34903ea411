"""Evaluate solvers on tasks over the images of a data source.

    python -m ray_jobs.evaluate CONFIG.yaml [key=value ...] [--dry-run] [--retry-failed]
    python -m ray_jobs.evaluate --list

The same command again does what is missing and nothing else. Exit codes: 0 complete, 2 the request is wrong,
3 complete but some images failed, 1 the run broke off (what was solved is kept).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ipsolve.metrics import FEATURES, METRICS, SET_METRICS
from ipsolve.report import console_table, open_run, write_report
from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import FAILURES, RESULTS, SUPERSEDED, RunFolder, cell_of
from ipsolve.runs.summary import write_summary
from ray_jobs import cli
from ray_jobs.pipeline.folder.finish import gaps
from ray_jobs.pipeline.folder.tidy import is_damage
from ray_jobs.pipeline.job import Job, dry_run, run_job
from ray_jobs.pipeline.listing import absent_metrics, list_registered
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Loader, Work
from ray_jobs.pipeline.stages.workload import Workload


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


class Evaluation(Job):
    """Images degraded, solved and scored."""

    unit = "images"
    experiment: Experiment

    def facts(self) -> list[str]:
        experiment = self.experiment
        _, height, width = experiment.prior_summary.image_shape
        kind = "latent" if experiment.prior_summary.latent else "pixel"
        source = experiment.config.data.get("source")
        return [
            f"data     {len(experiment.image_ids)} images of {source} at {height} x {width}",
            f"prior    {experiment.prior.name} ({kind}), fingerprint {experiment.prior.fingerprint()[:12]}",
            *absent_metrics(experiment.missing_metrics.items()),
        ]

    def loader(self) -> Loader:
        return partial(load, self.experiment.source, size=self.experiment.image_size)

    def work(self, device: str, num_threads: int) -> Work:
        return Workload.of(self.experiment, device, num_threads)

    def seconds(self, run: RunFolder) -> dict[str, float]:
        return measured_seconds(run, [cell.hash for cell in self.experiment.cells])

    def gaps(self, run: RunFolder) -> list[str]:
        columns = {
            name: name if name in METRICS else FEATURES[SET_METRICS[name].features].column
            for name in self.experiment.config.metrics
        }
        return gaps(run, self.experiment.cells, columns, self.experiment.missing_metrics)

    def tabulate(self, run: RunFolder) -> tuple[str, Callable[[], str]]:
        image_ids = set(self.experiment.image_ids)
        pairs = list(dict.fromkeys((cell.task, cell.solver) for cell in self.experiment.cells))
        summary = write_summary(run, pairs, self.experiment.config.baseline, image_ids)
        view = open_run(run, summary, image_ids)
        return console_table(view), lambda: write_report(view)


def measured_seconds(run: RunFolder, cells: Collection[str]) -> dict[str, float]:
    """Return the mean seconds of the rows of each cell that has any, by its hash; files that are torn do not count."""

    def measure(path: str) -> tuple[float, int]:
        try:
            with run.filesystem.open_input_file(path) as file:
                seconds = pq.read_table(file, columns=["seconds"])["seconds"]
        except FileNotFoundError:  # an actor at work has put it into a larger one
            return 0.0, 0
        except (pa.ArrowException, KeyError, OSError) as error:
            if not is_damage(error):
                raise
            return 0.0, 0
        return pc.sum(seconds, min_count=0).as_py(), len(seconds)

    # rows that were set aside come back when their configuration does
    files = [path for path in [*run.files(RESULTS), *run.files(SUPERSEDED)] if cell_of(path) in cells]
    files = [path for path in files if os.path.basename(os.path.dirname(path)) != FAILURES]
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for path, (total, count) in zip(files, run.each(measure, files), strict=True):
        sums[cell_of(path)] += total
        counts[cell_of(path)] += count
    return {cell: sums[cell] / count for cell, count in counts.items() if count}


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
    return dry_run(Evaluation(experiment)) if options.dry_run else evaluate(experiment, options.retry_failed)


if __name__ == "__main__":
    sys.exit(main())

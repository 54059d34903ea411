"""The pipeline of ``python -m ray_jobs.evaluate`` without what comes before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.cluster.allocation import allocate
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.execute import execute
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.workload import Workload


def reports(experiment: Experiment, seconds: Mapping[str, float] | None = None) -> Iterator[dict[str, Any]]:
    """Do what is missing of an experiment; yield the report of each batch.

    Args:
        seconds: what is known of the cost of an image, by cell hash.

    Raises:
        RuntimeError: an image failed.
    """
    index = RunIndex(RunFolder(experiment.config.run_location), experiment.all_cells).refresh()
    plan = Plan.of(experiment, index, seconds)
    allocation = allocate(experiment.config.compute, plan.num_batches)
    loader = partial(load, experiment.source, size=experiment.image_size)
    for report in execute(plan, allocation, loader, Workload.of(experiment, allocation.device, allocation.cpus)):
        if report["failed"]:
            raise RuntimeError(f"a batch failed: {report}")
        yield report

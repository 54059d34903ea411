"""The pipeline of ``python -m ray_jobs.evaluate`` without what comes before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ipsolve.runs.experiment import Experiment
from ray_jobs.pipeline.cluster.allocation import plan_share
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
    plan = Plan.of(experiment, seconds or {})
    share = plan_share(experiment.config.compute, plan.num_batches)
    loader = partial(load, experiment.source, size=experiment.image_size)
    for report in execute(plan, share, loader, Workload.of(experiment, share.device, share.cpus)):
        if report["failed"]:
            raise RuntimeError(f"a batch failed: {report}")
        yield report

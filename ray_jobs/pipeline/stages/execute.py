"""The Ray Data pipeline: chunks of work, read by CPU tasks, done by one pool of solver actors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ray_jobs.pipeline.cluster import connection as cluster
from ray_jobs.pipeline.cluster.allocation import Allocation
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.reading import read
from ray_jobs.pipeline.stages.worker import Loader, Work, Worker

MAX_CHUNKS = 1024  # the driver holds every row of the source of a pipeline for its whole life


def execute(
    plan: Plan,
    allocation: Allocation,
    loader: Loader,
    work: Work,
    written: bytes | None = None,
    note: Callable[[Sequence[str]], None] = print,
) -> Iterator[dict[str, Any]]:
    """Do the missing work of a plan; yield the report of each batch as soon as it is durable.

    All cells share the actors: the prior is loaded once per actor and no actor waits between two cells.

    Args:
        loader: gets the input of a batch.
        work: what every actor is told.
        written: ``config.yaml`` of the run, which every actor has to see.
        note: is told what happened on the way that no batch knows of.
    """
    cluster.connect(allocation.num_actors * allocation.cpus)
    import ray
    from ray.data import ActorPoolStrategy, from_items

    cluster.quiet_data()
    before = cluster.restarts()
    dispatch = plan.dispatch(allocation.num_actors)
    chunks = [{"start": start, "stop": stop} for start, stop in dispatch.chunks(MAX_CHUNKS)]
    readers = max(2, allocation.num_actors // 4)
    # Beside actors on CPUs a reader asks for none: where all are taken, as after the loss of a node, it would never
    # start. So many read at a time: an image is read in hundredths of a second and solved in many times that.
    resources: dict[str, Any] = {"num_cpus": 1} if allocation.gpus else {"num_cpus": 0, "concurrency": readers}
    reading = partial(read, dispatch=ray.put(dispatch), loader=ray.put(loader), location=work.location)
    reports = (
        from_items(chunks, override_num_blocks=len(chunks))
        .flat_map(reading, **resources)
        .map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(work, written),
            compute=ActorPoolStrategy(
                size=allocation.num_actors, max_tasks_in_flight_per_actor=plan.in_flight(allocation.num_actors)
            ),
            # ray.md 1c: an actor takes a CPU unless told otherwise. Next to a GPU the CPU share only sets threads;
            # without GPUs it spreads the actors over the nodes.
            num_cpus=0 if allocation.gpus else allocation.cpus,
            num_gpus=allocation.gpus or None,
            accelerator_type=allocation.accelerator_type,
            # ray.md 1d: restarts and repeats are endless, and may be, because a batch counts its own deaths
        )
    )
    for block in reports.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from map(json.loads, block["report"])
    if died := cluster.restarts() - before:
        why = "as when they are killed, run out of memory or lose their node"
        note([f"solver processes ended {died} times before their work did, {why}; others took their place"])

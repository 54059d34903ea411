"""Actors from one to 32 that sleep instead of computing: what the pipeline itself costs.

A solver that sleeps needs no core, so that two cores show how far one driver feeds its actors. The steady state is from
the moment the last actor began to the moment the first one ended; throughput in it is compared with that of a single
actor.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cluster import local_cluster
from benchmarks.harness import Options, Row, in_process, say

SECONDS = 0.5  # for an image
BATCH = 8


def rows(options: Options) -> list[Row]:
    if options.quick:
        return in_process(measure, 1, counts=[2], batches=3)
    return in_process(measure, 1, counts=[1, 2, 4, 8, 16, 32], batches=14)


def measure(counts: list[int], batches: int) -> list[Row]:
    """Run the pipeline with so many actors after another, on a cluster with logical cores for all of them."""
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, local_cluster(Path(folder), max(counts) + 4):
        single = 0.0
        for count in counts:
            calls = run(Path(folder, f"actors{count}"), count, {"slow": SECONDS}, count * batches * BATCH)
            rate = steady_rate(calls)
            single = single or rate / count
            table.append({"actors": count, "images/s": rate, "of linear": rate / (single * count)})
            say(f"{count} actors: {rate:.2f} images/s, {table[-1]['of linear']:.3f} of linear")
    return table


Calls = dict[str, list[tuple[float, float]]]  # (start, seconds slept) of each batch, by process


def run(folder: Path, actors: int, cost: Mapping[str, float], images: int, known: bool = False) -> Calls:
    """Run one evaluation of solvers that sleep; return what its actors did when.

    Args:
        cost: seconds for an image, by solver.
        known: whether the plan knows them.
    """
    import dataclasses

    from benchmarks.faults.solvers import Slow
    from benchmarks.pipeline import reports
    from ipsolve.requests.validation import build
    from ipsolve.runs.config import Config
    from ipsolve.runs.experiment import Experiment

    logs = {name: folder / "calls" / name for name in cost}
    for log in logs.values():
        log.mkdir(parents=True)
    solvers = {name: Slow(seconds=seconds, calls=str(logs[name])) for name, seconds in cost.items()}
    checked = Experiment.of(build(Config, configuration(folder, actors, images), "config"))
    trial = dataclasses.replace(checked, solvers=solvers)
    seconds = {cell.hash: cost[cell.solver] for cell in trial.cells if known and cell.solver in cost}
    for _ in reports(trial, seconds):
        pass
    calls: Calls = defaultdict(list)
    for name, log in logs.items():
        for process, started in _batches(log):
            calls[process].append((started, cost[name] * BATCH))
    return calls


def _batches(log: Path) -> list[tuple[str, float]]:
    """Return (process, start) of each batch: ``Slow`` leaves a file for each of its images just before it sleeps."""
    images = sorted(tuple(path.name.split("-")) for path in log.iterdir())
    return [(process, int(started) / 1e9) for process, started in images[BATCH - 1 :: BATCH]]


def configuration(folder: Path, actors: int, images: int) -> dict[str, Any]:
    """Return an evaluation of small images."""
    return {
        "name": "scale",
        "data": {"source": "portraits:test", "limit": images},
        "prior": {"prior": "mixture", "image_shape": [3, 16, 16]},
        "tasks": {"sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.05}},
        "solvers": {"pinv": {"solver": "pseudo_inverse"}},
        "metrics": ["psnr"],
        "compute": {"num_actors": actors, "cpus_per_actor": 1, "gpus_per_actor": 0, "batch_size": BATCH},
        "output": str(folder),
    }


def steady_rate(calls: Calls) -> float:
    """Return images per second while all actors were at work."""
    starts = [sorted(start for start, _ in each) for each in calls.values()]
    begin, end = max(each[0] for each in starts), min(each[-1] for each in starts)
    # each actor by its own first and last start inside: a count over a window would cut batches in two
    rate = 0.0
    for each in starts:
        inside = [start for start in each if begin <= start <= end]
        if len(inside) > 1:
            rate += BATCH * (len(inside) - 1) / (inside[-1] - inside[0])
    return rate

"""Actors from one to 32 that sleep instead of computing: what the pipeline itself costs, steadily and at the end.

A solver that sleeps needs no core, so that two cores show how far one driver feeds its actors. The steady state is from
the moment the last actor began to the moment the first one ended; throughput in it is compared with that of a single
actor. Busy is the share of all actors' time, from the first call to the end of the last, in which they solved: what is
missing are gaps and the tail. At the end the same with a solver that computes, one thread for each actor, as far as
there are cores.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.cluster import local_cluster
from benchmarks.harness import Options, Row, cores, in_process, say

SECONDS = 0.5  # for an image
BATCH = 8
TAIL = {"cheap": 0.02, "usual": 0.2, "dear": 1.0}  # solvers of very different cost


def rows(options: Options) -> list[Row]:
    if options.quick:
        return in_process(measure, 1, counts=[2], batches=3, tail=False)
    table: list[Row] = in_process(measure, 1, counts=[1, 2, 4, 8, 16, 32], batches=14, tail=True)
    single = 0.0
    for count in sorted({1, cores()}):
        rate = in_process(real_rate, 1, actors=count, batches=8)
        single = single or rate
        table.append({"what": "computing", "actors": count, "images/s": rate, "of linear": rate / (single * count)})
        say(f"{count} actors that compute: {rate:.3f} images/s, {rate / (single * count):.3f} of linear")
    return table


def measure(counts: list[int], batches: int, tail: bool) -> list[Row]:
    """Run the pipeline with so many actors after another, on a cluster with logical cores for all of them."""
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, local_cluster(Path(folder), max(counts) + 4):
        single = 0.0
        for count in counts:
            calls = _run(Path(folder, f"actors{count}"), count, {"slow": SECONDS}, count * batches * BATCH, {})
            rate = steady_rate(calls)
            single = single or rate
            row: Row = {
                "what": "same cost",
                "actors": count,
                "images/s": rate,
                "of linear": rate / (single * count / counts[0]),
            }
            table.append(row | {"busy": busy(calls)})
            say(f"{count} actors: {rate:.2f} images/s, {row['of linear']:.3f} of linear")
        for known in (False, True) if tail else ():
            actors = min(8, max(counts))
            name = f"costs {'' if known else 'not '}known before"
            calls = _run(Path(folder, f"tail{known}"), actors, TAIL, 12 * BATCH, TAIL if known else {})
            table.append({"what": name, "actors": actors, "busy": busy(calls)})
            say(f"{name}: busy {table[-1]['busy']:.3f}")
    return table


Calls = dict[str, list[tuple[float, float]]]  # (start, seconds slept) of each batch, by process


def _run(folder: Path, actors: int, cost: dict[str, float], images: int, known: dict[str, float]) -> Calls:
    """Run one evaluation of solvers that sleep; return what its actors did when."""
    import dataclasses

    from benchmarks.faults.solvers import Slow
    from benchmarks.pipeline import reports
    from ipsolve.config import Config
    from ipsolve.experiment import Experiment
    from ipsolve.validation import build

    logs = {name: folder / "calls" / name for name in cost}
    for log in logs.values():
        log.mkdir(parents=True)
    solvers = {name: Slow(seconds=seconds, calls=str(logs[name])) for name, seconds in cost.items()}
    checked = Experiment.of(build(Config, configuration(folder, actors, images), "config"))
    trial = dataclasses.replace(checked, solvers=solvers)
    seconds = {cell.hash: known[cell.solver] for cell in trial.cells if cell.solver in known}
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


def real_rate(actors: int, batches: int) -> float:
    """Return images per second of so many actors of one thread with the built-in prior, while all are at work."""
    import os

    import numpy as np

    from benchmarks.pipeline import reports
    from ipsolve.config import Config
    from ipsolve.experiment import Experiment
    from ipsolve.validation import build

    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), actors, actors * batches * BATCH) | {
            "prior": {"prior": "latent", "path": "builtin:portraits-64"},
            "solvers": {"nullspace_resample": {"solver": "nullspace_resample", "num_steps": 20}},
        }
        trial = Experiment.of(build(Config, config, "config"))
        reference = trial.reference_cell.hash
        ends = [time.monotonic() for report in reports(trial) if report["cell"] != reference]
    steady = np.array(ends[actors : len(ends) - actors])
    return float(BATCH * np.polyfit(steady, np.arange(len(steady)), 1)[0])


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


def busy(calls: Calls) -> float:
    """Return the share of the actors' time, from the first call to the end of the last, in which they solved."""
    every = [call for each in calls.values() for call in each]
    begin, end = min(start for start, _ in every), max(start + slept for start, slept in every)
    return sum(slept for _, slept in every) / (len(calls) * (end - begin))

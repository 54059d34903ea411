"""The Ray pipeline against a bare loop in one process, on the same batches.

The bare loop reads, degrades, solves and scores, and keeps nothing; the pipeline also isolates faults, encodes images
as PNG, makes every batch durable and reports it. Steady state is from the end of the first batch to the end of the
last; what comes before (Ray, the actor, the prior, the first batch) is start-up.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Options, Row, cores, in_process, say
from benchmarks.problem import PRIOR, SEED, SR4
from ipsolve.conventions import from_uint8
from ipsolve.evaluation.sampling import draw
from ipsolve.metrics import METRICS
from ipsolve.problem import pose
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.experiment import Experiment

Mapping = dict[str, Any]


def rows(options: Options) -> list[Row]:
    num_batches, batch_size, num_steps = (3, 2, 2) if options.quick else (12, 8, 20)
    rounds = options.rounds_or(3)
    found = []
    for threads in [1] if options.quick else sorted({1, cores()}):
        runs: dict[str, list[Mapping]] = {"loop": [], "ray": []}
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                config = configuration(folder, num_batches, batch_size, num_steps, threads)
                runs["loop"].append(in_process(bare_loop, threads, config=config))
                runs["ray"].append(in_process(pipeline, threads, config=config))
            speeds = {name: runs[name][-1]["images/s"] for name in runs}
            say(f"{threads} threads, round {number + 1}: {speeds['loop']:.3f} and {speeds['ray']:.3f} images/s")
        speeds = {name: [run["images/s"] for run in runs[name]] for name in runs}
        ratios = [ray / loop for ray, loop in zip(speeds["ray"], speeds["loop"], strict=True)]
        found.append(
            {
                "threads": threads,
                "loop images/s": median(speeds["loop"]),
                "ray images/s": median(speeds["ray"]),
                "ray / loop": round(median(speeds["ray"]) / median(speeds["loop"]), 3),
                "of single rounds": ", ".join(f"{ratio:.3f}" for ratio in ratios),
                "loop start-up s": median(run["start-up s"] for run in runs["loop"]),
                "ray start-up s": median(run["start-up s"] for run in runs["ray"]),
                "work": f"{num_batches} batches of {batch_size}, nullspace_resample, {num_steps} steps",
            }
        )
    return found


def configuration(folder: str, num_batches: int, batch_size: int, num_steps: int, threads: int) -> Mapping:
    """Return one cell of an evaluation with one actor."""
    return {
        "name": "engine",
        "seed": SEED,
        "data": {"source": "portraits:test", "limit": num_batches * batch_size},
        "prior": PRIOR,
        "tasks": {"sr4": SR4},
        "solvers": {"nullspace_resample": {"solver": "nullspace_resample", "num_steps": num_steps}},
        "metrics": ["psnr", "ssim"],
        "compute": {"num_actors": 1, "cpus_per_actor": threads, "gpus_per_actor": 0, "batch_size": batch_size},
        "output": folder,
    }


@torch.no_grad()
def bare_loop(config: Mapping) -> Mapping:
    """Do the work as a script of one person would."""
    experiment = Experiment.of(build(Config, config, "config"))
    task, solver = experiment.tasks["sr4"], experiment.solvers["nullspace_resample"]
    size, limit, ends = config["compute"]["batch_size"], config["data"]["limit"], []
    start = time.time()
    prior = experiment.prior.load()
    metrics = [METRICS[name]() for name in config["metrics"]]
    for first in range(0, limit, size):
        indices = range(first, first + size)
        image_ids = experiment.source.image_ids(indices)
        images = np.stack(experiment.source.load_batch(indices, experiment.image_size))
        x = from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2))
        x_hat = draw(solver, pose(task, x, prior, SEED, image_ids).problem)[:, 0]
        for metric in metrics:
            metric(x_hat, x)
        ends.append(time.time())
    return _speed(start, ends, size)


def pipeline(config: Mapping) -> Mapping:
    """Do the work as ``python -m ray_jobs.evaluate`` does; a batch ends when its file is there."""
    os.environ.pop("RAY_ADDRESS", None)  # a cluster elsewhere would be another machine
    from benchmarks.pipeline import reports

    experiment = Experiment.of(build(Config, config, "config"))
    start = time.time()
    for _ in reports(experiment):
        pass
    files = Path(experiment.config.run_location, "results").rglob("*.parquet")
    return _speed(start, sorted(file.stat().st_mtime for file in files), config["compute"]["batch_size"])


def _speed(start: float, ends: list[float], batch_size: int) -> Mapping:
    return {"start-up s": ends[0] - start, "images/s": (len(ends) - 1) * batch_size / (ends[-1] - ends[0])}

"""A solver that computes, on one core and on all: actors of one thread each, beside as many loops without Ray.

Null-space ReSample with the built-in prior; the arms take turns. What loops in processes of their own, which share
nothing, lose with their number is lost to the machine: its memory, its clock, and who else runs on it. The rate of
actors is the slope of finished batches over time while all are at work.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks.engine import bare_loop, configuration
from benchmarks.harness import Options, Row, cores, in_process, say

BATCH, NUM_STEPS = 8, 20


def rows(options: Options) -> list[Row]:
    batches = 4 if options.quick else 12
    counts = sorted({1, cores()})
    arms = [(name, count) for count in counts for name in ("loops", "actors")]
    rates: dict[tuple[str, int], list[float]] = {arm: [] for arm in arms}
    for _ in range(options.rounds_or(2)):
        for name, count in arms:
            rates[name, count].append((loops if name == "loops" else actors)(count, batches))
            say(f"{count} {name}: {rates[name, count][-1]:.3f} images/s")
    middle = {arm: median(each) for arm, each in rates.items()}
    return [
        {
            "actors": count,
            "loops images/s": middle["loops", count],
            "loops, times one": middle["loops", count] / middle["loops", 1],
            "actors images/s": middle["actors", count],
            "actors, times one": middle["actors", count] / middle["actors", 1],
            "actors / loops": middle["actors", count] / middle["loops", count],
            "of single rounds": ", ".join(
                f"{ray / loop:.3f}" for ray, loop in zip(rates["actors", count], rates["loops", count], strict=True)
            ),
        }
        for count in counts
    ]


def loops(count: int, batches: int) -> float:
    """Return images per second of so many bare loops at once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as pool:
        config = configuration(folder, batches, BATCH, NUM_STEPS, 1)
        ends = [pool.submit(in_process, bare_loop, 1, config=config) for _ in range(count)]
        return float(sum(end.result()["images/s"] for end in ends))


def actors(count: int, batches: int) -> float:
    """Return images per second of the pipeline with so many actors."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(folder, count * batches, BATCH, NUM_STEPS, 1)
        config["compute"]["num_actors"] = count
        return float(in_process(rate, 1, config=config))


def rate(config: dict[str, Any]) -> float:
    """Return images per second of an evaluation in this process, while all its actors are at work."""
    import numpy as np

    os.environ.pop("RAY_ADDRESS", None)
    from benchmarks.pipeline import reports
    from ipsolve.requests.validation import build
    from ipsolve.runs.config import Config
    from ipsolve.runs.experiment import Experiment

    experiment = Experiment.of(build(Config, config, "config"))
    reference, count = experiment.reference_cell.hash, config["compute"]["num_actors"]
    ends = [time.monotonic() for report in reports(experiment) if report["cell"] != reference]
    steady = np.array(ends[count : len(ends) - count])
    return float(BATCH * np.polyfit(steady, np.arange(len(steady)), 1)[0])

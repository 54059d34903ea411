"""The fault matrix: each thing that can go wrong in a run, done for real, many times at different moments.

After each fault the run is compared with one that was left alone: every (task, solver, seed, image) once in the results
or the failures, the same numbers, a message that says what happened, no process that outlives its driver.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster import local_cluster
from benchmarks.faults import deaths, surroundings
from benchmarks.faults.scene import Scene
from benchmarks.harness import Options, Row, Skipped, in_process, say

NUM_CPUS = 3  # logical: two actors, and what reads for them; a fourth actor must be on another node
CASES: dict[str, Callable[[Scene], None]] = {
    case.__name__: case
    for case in (
        deaths.actor_killed_in_a_batch,
        deaths.actor_killed_while_it_loads,
        deaths.node_removed,
        deaths.driver_killed,
        deaths.job_stopped,
        deaths.poison,
        deaths.poison_file,
        deaths.broken_device,
        surroundings.second_driver,
        surroundings.disk_full,
        surroundings.torn_file,
        surroundings.bad_images,
        surroundings.nan_or_inf,
        surroundings.solver_raises,
        surroundings.out_of_memory,
        surroundings.tracking_down_all_the_time,
        surroundings.tracking_down_in_the_middle,
    )
}


class Stage:
    """A cluster and a tracking server for any number of scenes."""

    def __init__(self, folder: Path, cluster: Any, ready: dict[str, Any]) -> None:
        self.folder, self.cluster, self.ready = folder, cluster, ready

    def play(self, name: str, seed: int) -> None:
        """Play one fault; AssertionError where something does not hold that must, Skipped where it cannot be done."""
        folder = self.folder / f"{name}-{seed}"
        folder.mkdir()
        CASES[name](Scene(folder, random.Random(f"{name} {seed}"), self.cluster, self.ready))


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start what all scenes share, and end it."""
    from benchmarks.faults.tracking import TrackingServer

    server = TrackingServer(folder)
    try:
        with local_cluster(folder, NUM_CPUS, dashboard=True) as cluster:
            yield Stage(folder, cluster, {"tracking": server, "store": f"sqlite:///{folder}/mlflow.db"})
    finally:
        server.stop()


def rows(options: Options) -> list[Row]:
    rounds = options.rounds_or(20)
    names = ["out_of_memory", "driver_killed"] if options.quick else list(CASES)
    return in_process(play_all, 1, names=names, rounds=rounds)


def play_all(names: list[str], rounds: int) -> list[Row]:
    """Play each fault so many times, each time at another moment."""
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as ready:
        for name in names:
            seconds, reasons, note = list[float](), list[str](), ""
            for seed in range(rounds):
                start = time.perf_counter()
                try:
                    ready.play(name, seed)
                except Skipped as reason:
                    note = f"skipped: {reason}"
                    break
                except Exception as error:  # the figures of the others are not lost to one that fails
                    reasons.append(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                    say(f"{name}, {reasons[-1]}")
                seconds.append(time.perf_counter() - start)
            say(f"{name}: {len(seconds) - len(reasons)} of {len(seconds)} held")
            table.append(
                {
                    "fault": name,
                    "played": len(seconds),
                    "held": len(seconds) - len(reasons),
                    "median s": round(median(seconds), 1) if seconds else None,
                    "what": (CASES[name].__doc__ or "").strip(),
                    "failures": note or "; ".join(reasons),
                }
            )
    return table

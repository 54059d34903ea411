"""The fault matrix: each thing that can go wrong in a run, done for real, many times at different moments.

After each fault the run is compared with one that was left alone: every (task, solver, seed, image) once in the results
or the failures, the same numbers, a message that says what happened, no process that outlives its driver.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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


def rows(options: Options) -> Iterator[list[Row]]:
    """Yield the table after each round: hours of faults are not lost to what ends the last of them."""
    names = list(options.only or (["out_of_memory", "driver_killed"] if options.quick else CASES))
    if unknown := [name for name in names if name not in CASES]:
        raise Skipped(f"there is no fault {unknown[0]!r}; there are {', '.join(CASES)}")
    played: list[Row] = []
    with ThreadPoolExecutor(options.at_once) as pool:
        seeds = range(options.rounds_or(20))
        rounds = [pool.submit(in_process, play_round, 1, names=names, seed=seed) for seed in seeds]
        try:
            for done in as_completed(rounds):
                played += done.result()
                yield tabulate(played)
        finally:
            pool.shutdown(cancel_futures=True)  # whoever breaks it off does not wait for the rounds to come


def play_round(names: list[str], seed: int) -> list[Row]:
    """Play each fault once, at the moments of ``seed``; return a row for each, with the reason if it has not held."""
    played: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as ready:
        for name in names:
            row: Row = {"fault": name, "seed": seed, "skipped": "", "failure": ""}
            start = time.perf_counter()
            try:
                ready.play(name, seed)
            except Skipped as reason:
                row["skipped"] = f"skipped: {reason}"
            except Exception as error:  # the figures of the others are not lost to one that fails
                row["failure"] = f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            row["seconds"] = time.perf_counter() - start
            say(f"{name}, seed {seed}: {row['skipped'] or row['failure'] or 'held'}")
            played.append(row)
    return played


def tabulate(played: Sequence[Row]) -> list[Row]:
    """Return a row for each fault, of all rounds of it."""
    table: list[Row] = []
    for name in dict.fromkeys(row["fault"] for row in played):
        mine = [row for row in played if row["fault"] == name]
        done = [row for row in mine if not row["skipped"]]
        table.append(
            {
                "fault": name,
                "played": len(done),
                "held": sum(not row["failure"] for row in done),
                "median s": round(median(row["seconds"] for row in done), 1) if done else None,
                "what": (CASES[name].__doc__ or "").strip(),
                "failures": "; ".join(filter(None, (row["failure"] or row["skipped"] for row in mine))),
            }
        )
    return table

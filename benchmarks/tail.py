"""Cells of very different cost in one run: what the actors lose in gaps and at the end.

Solvers that sleep. ``busy`` is the share of the time from an actor's first call to the end of the run in which it
solved, over all actors, and ``idle s`` how long the first actor without work waited for the last one. ``best`` is the
share that no order can surpass: the batches are longer than what would divide the work evenly.
"""

from __future__ import annotations

import heapq
import tempfile
from pathlib import Path

from benchmarks.cluster import local_cluster
from benchmarks.harness import Options, Row, in_process, say
from benchmarks.scale import BATCH, Calls, run

COST = {"cheap": 0.02, "usual": 0.2, "dear": 1.0}  # seconds for an image


def rows(options: Options) -> list[Row]:
    if options.quick:
        return in_process(measure, 1, actors=2, batches=2, scale=0.02)
    return in_process(measure, 1, actors=8, batches=24, scale=1.0)


def measure(actors: int, batches: int, scale: float) -> list[Row]:
    """Run three cells of so many batches each, first without and then with their cost known before."""
    table: list[Row] = []
    cost = {name: seconds * scale for name, seconds in COST.items()}
    with tempfile.TemporaryDirectory() as folder, local_cluster(Path(folder), actors + 4):
        for known in (False, True):
            calls = run(Path(folder, f"known-{known}"), actors, cost, batches * BATCH, known)
            row: Row = {"costs": "known before" if known else "not known", "actors": actors, "batches": 3 * batches}
            table.append(row | {"busy": busy(calls), "best": best(calls), "idle s": idle(calls)})
            say(f"costs {row['costs']}: busy {table[-1]['busy']:.3f} of {table[-1]['best']:.3f}")
    return table


def busy(calls: Calls) -> float:
    """Return in what share of the time, from the first call of each to the end of the last, actors solved."""
    return _work(calls) / sum(_end(calls) - min(start for start, _ in each) for each in calls.values())


def best(calls: Calls) -> float:
    """Return the share in which they would have solved without a gap, the longest batches first.

    An actor is there from its first call on. Longest first is within 4/3 of the shortest end (Graham 1969), and nearer
    the shorter the longest batch is beside the whole.
    """
    free = [min(start for start, _ in each) for each in calls.values()]
    began = sum(free)
    heapq.heapify(free)
    for slept in sorted((slept for each in calls.values() for _, slept in each), reverse=True):
        heapq.heappush(free, heapq.heappop(free) + slept)
    return _work(calls) / (len(free) * max(free) - began)


def idle(calls: Calls) -> float:
    """Return the seconds from the end of the first actor's work to that of the last."""
    ends = [max(start + slept for start, slept in each) for each in calls.values()]
    return max(ends) - min(ends)


def _work(calls: Calls) -> float:
    return sum(slept for each in calls.values() for _, slept in each)


def _end(calls: Calls) -> float:
    return max(start + slept for each in calls.values() for start, slept in each)

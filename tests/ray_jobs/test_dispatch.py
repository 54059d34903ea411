"""The order of the batches: everything once, all cells together, no long batch last, and little memory."""

from __future__ import annotations

import heapq
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.pipeline.plan import MANY_BATCHES, Plan
from ray_jobs.pipeline.stages.dispatch import Dispatch
from tests.ray_jobs.small_runs import experiment, index_of


def makespan(schedule: Dispatch, seconds: dict[str, float], num_actors: int) -> float:
    """Return when the last of some actors is done, each taking the next batch as soon as it is free."""
    free = [0.0] * num_actors
    for name, indices in schedule.batches():
        heapq.heappush(free, heapq.heappop(free) + seconds[name] * len(indices))
    return max(free)


@pytest.mark.parametrize("num_actors", [1, 7])
@pytest.mark.parametrize("seconds", [{}, {"a": 0.1, "b": 20.0}, {"a": 0.0, "b": 0.0, "c": 0.0}])
def test_every_missing_image_is_in_one_batch(seconds: dict[str, float], num_actors: int) -> None:
    missing = {"a": range(20), "b": np.array([3, 5, 6, 11, 90]), "c": range(0)}
    schedule = Dispatch.of(missing, 4, seconds, num_actors)
    batches = list(schedule.batches())
    assert len(batches) == len(schedule) == 5 + 2
    assert Counter((name, index) for name, indices in batches for index in indices) == Counter(
        (name, int(index)) for name, left in missing.items() for index in left
    )
    assert all(1 <= len(indices) <= 4 for _, indices in batches)
    for name, left in missing.items():  # in their own order: neighbours are read from the same file
        assert [i for owner, indices in batches for i in indices if owner == name] == list(left)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_stretches_cover_the_schedule(most: int) -> None:
    schedule = Dispatch.of({"a": range(50), "b": range(33)}, 4, {}, 2)
    chunks = schedule.chunks(most)
    assert len(chunks) <= most
    assert [batch for start, stop in chunks for batch in schedule.batches(start, stop)] == list(schedule.batches())


def test_cells_of_equal_cost_are_dealt_round_robin() -> None:
    schedule = Dispatch.of({"a": range(6), "b": range(6), "c": range(6)}, 2, {"a": 3.0, "b": 3.0, "c": 3.0}, 4)
    assert [name for name, _ in schedule.batches()] == list("abcabcabc")


def test_cells_advance_together() -> None:
    schedule = Dispatch.of({"short": range(30), "long": range(300)}, 1, {"short": 1.0, "long": 1.0}, 2)
    names = [name for name, _ in schedule.batches()]
    for part in range(1, 10):
        assert names[: part * 33].count("short") == pytest.approx(3 * part, abs=1)


@pytest.mark.parametrize("num_actors", [8, 32])
def test_the_tail_is_short_where_costs_are_known(num_actors: int) -> None:
    # as of a demo: solvers from milliseconds to half a minute for an image
    seconds = {"pinv": 0.01, "tv": 3.0, "ddnm": 11.0, "resample": 29.0, "nullspace": 8.0}
    missing = {name: range(128) for name in seconds}
    ideal = sum(128 * each for each in seconds.values()) / num_actors
    known = makespan(Dispatch.of(missing, 4, seconds, num_actors), seconds, num_actors)
    unknown = makespan(Dispatch.of(missing, 4, {}, num_actors), seconds, num_actors)
    assert known <= unknown
    # whoever hands out work without looking ahead may end a longest batch later than the ideal
    assert known <= ideal + 4 * seconds["resample"] / 2


def test_ten_million_images_by_25_cells_are_a_small_object() -> None:
    missing = {f"{index:012}": range(10_000_000) for index in range(25)}
    schedule = Dispatch.of(missing, 64, {}, 1000)
    assert len(pickle.dumps(schedule)) < 7 * len(schedule)
    assert next(schedule.batches(len(schedule) - 1))[1][-1] == 9_999_999


def test_an_actor_has_its_next_batch_ahead_in_long_runs_alone(tmp_path: Path) -> None:
    def plan(images: int) -> Plan:
        data, pinv = {"source": "portraits:test", "limit": images}, {"pinv": {"solver": "pseudo_inverse"}}
        trial = experiment(tmp_path, data=data, solvers=pinv, compute={"batch_size": 1})
        return Plan.of(trial, index_of(trial))

    short, long = plan(MANY_BATCHES // 2 - 1), plan(MANY_BATCHES)  # a batch of an image is a batch of the truth, too
    assert (short.num_batches, long.num_batches) == (MANY_BATCHES - 2, 2 * MANY_BATCHES)
    assert [short.in_flight(1), long.in_flight(1), long.in_flight(2), long.in_flight(3)] == [1, 2, 2, 1]

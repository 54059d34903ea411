"""Early stopping: the rules on cases computed by hand, and what the study makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ipsolve.runs.results import RunFolder
from tests.tuning.small_sweeps import sweep
from tuning.ledger import Ledger
from tuning.problem import Report
from tuning.stopping import below_median, halved


@pytest.mark.parametrize(
    ("value", "others", "factor", "stops"),
    [
        (1.0, [], 2, False),  # alone
        (1.0, [2.0], 2, True),  # the best 1 of 2 goes on
        (2.0, [1.0], 2, False),
        (2.0, [2.0], 2, False),  # equally good
        (2.0, [3.0, 1.0], 2, True),  # floor(3 / 2) = 1
        (2.0, [3.0, 1.0, 0.0], 2, False),  # the best 2 of 4
        (1.0, [3.0, 2.0, 0.0], 2, True),
        (1.0, [3.0], 3, False),  # too few to tell
        (1.0, [3.0, 2.0], 3, True),  # the best 1 of 3
        (2.0, [9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 4, False),  # the best 2 of 8
        (2.0, [9.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0], 4, True),
    ],
)
def test_successive_halving_goes_on_with_the_best(value: float, others: list[float], factor: int, stops: bool) -> None:
    assert halved(value, others, factor) is stops


@pytest.mark.parametrize(
    ("value", "others", "stops"),
    [
        (0.0, [1.0, 2.0, 3.0, 4.0], False),  # too few to tell
        (2.9, [1.0, 2.0, 3.0, 4.0, 5.0], True),
        (3.0, [1.0, 2.0, 3.0, 4.0, 5.0], False),
    ],
)
def test_the_median_rule_stops_what_is_below_the_median(value: float, others: list[float], stops: bool) -> None:
    assert below_median(value, others) is stops


class Study:
    """A study whose trials report what a test says."""

    def __init__(self, folder: Path, **search: Any) -> None:
        self.sweep = sweep(folder, search={"num_trials": 20, "algorithm": "random", **search})
        self.run = RunFolder(self.sweep.config.run_location)
        Path(self.run.root).mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        """Begin, or go on as after the death of a driver."""
        self.ledger = Ledger(self.sweep, self.run, lambda line: None)

    def begin(self) -> int:
        asked = self.ledger.ask()
        assert asked is not None
        return asked[0]

    def stops(self, number: int, images: int, value: float) -> bool:
        return self.ledger.report(number, Report(images, (value,)))


def test_halving_decides_at_every_rung_of_the_request_and_the_reference_competes(tmp_path: Path) -> None:
    study = Study(tmp_path, rungs=[1, 5, 6, 8], scheduler="asha", reduction_factor=2)
    reference, first, second, third = (study.begin() for _ in range(4))
    assert not study.stops(reference, 1, 20.0)
    assert study.stops(first, 1, 19.0)  # the first that is drawn does not pass of itself
    assert not study.stops(second, 1, 21.0)
    assert not study.stops(third, 1, 20.5)  # the second best of four
    assert not study.stops(reference, 5, 30.0)
    assert study.stops(second, 5, 29.0)  # 5 and 6 are no rungs of Optuna's, which has 1, 2, 4, 8
    assert not study.stops(third, 5, 31.0)
    assert not study.stops(reference, 6, 10.0)  # never, however bad
    assert not study.stops(third, 6, 11.0)


def test_a_driver_that_goes_on_decides_as_the_one_that_died(tmp_path: Path) -> None:
    study = Study(tmp_path, rungs=[1, 5, 8], scheduler="asha")
    reference, good, other = (study.begin() for _ in range(3))
    assert not study.stops(reference, 1, 20.0)
    assert not study.stops(good, 1, 21.0)
    assert not study.stops(good, 5, 30.0)
    study.open()
    assert [study.begin() for _ in range(3)] == [reference, good, other]
    assert study.stops(other, 1, 20.5)  # below one of two, both from before
    late = study.begin()
    assert not study.stops(late, 1, 22.0)
    assert not study.stops(good, 1, 21.0)  # it has passed here, though it would not now
    assert not study.stops(reference, 1, 20.0)


def test_smaller_is_better_where_the_objective_says_so(tmp_path: Path) -> None:
    study = Study(tmp_path, rungs=[2, 8], scheduler="asha")
    study.sweep = sweep(tmp_path / "min", objective={"metric": "psnr", "mode": "min"}, search={"rungs": [2, 8]})
    study.run = RunFolder(study.sweep.config.run_location)
    Path(study.run.root).mkdir(parents=True)
    study.open()
    reference, better, worse = (study.begin() for _ in range(3))
    assert not study.stops(reference, 2, 20.0)
    assert not study.stops(better, 2, 19.0)
    assert study.stops(worse, 2, 19.5)


def test_the_median_is_that_of_the_same_images(tmp_path: Path) -> None:
    """The first images are easy: a trial that is bad on all does not live on what it had on them."""
    study = Study(tmp_path, rungs=[2, 4, 8], scheduler="median")
    for i in range(6):
        number = study.begin()
        assert not study.stops(number, 2, 30.0 + i)
        assert not study.stops(number, 4, 20.0 + i)
    bad = study.begin()
    assert not study.stops(bad, 2, 33.0)  # above the median of 32.5
    assert study.stops(bad, 4, 15.0)  # its best, 33, is above the others' median of 22.5
    good = study.begin()
    assert not study.stops(good, 2, 33.0)
    assert not study.stops(good, 4, 23.0)

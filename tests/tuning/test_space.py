"""The laws of a search space, and what is refused in one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from tuning.space import Space, parse_space

FIXED = {"solver": "nullspace_resample", "num_steps": 100}
EVERY_KIND: dict[str, Any] = {
    "gamma": {"log": [1, 200]},
    "guidance_scale": {"float": [0, 5]},
    "projection_interval": {"int": [2, 20]},
    "latent_iterations": {"log_int": [1, 500]},
    "phase_boundaries": {"ordered": [0.05, 0.95]},
    "final_latent_fit": {"choice": [True, False]},
    "latent_lr": {"log": [0.001, 0.1], "when": {"final_latent_fit": True}},
}


def draws(space: Space, n: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the values and the parameters of random points."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(n):
        trial = study.ask()
        found.append((space.suggest(trial), trial.params))
    return found


@pytest.fixture(scope="module")
def points() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return draws(parse_space(EVERY_KIND, FIXED), 400)


def test_every_point_is_a_valid_solver_within_the_ranges(points: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for values, _ in points:
        solver: Any = parse_solver({**FIXED, **values})
        assert 1 <= solver.gamma <= 200
        assert 2 <= solver.projection_interval <= 20
        first, second = solver.phase_boundaries
        assert 0.05 <= first <= second <= 0.95
    assert {values["projection_interval"] for values, _ in points} == set(range(2, 21))  # ends included


def test_a_conditional_field_is_there_exactly_where_its_condition_holds(
    points: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    for values, parameters in points:
        assert ("latent_lr" in values) == values["final_latent_fit"] == ("latent_lr" in parameters)
    assert {values["final_latent_fit"] for values, _ in points} == {True, False}


def test_logarithms_and_the_ordered_pair_are_uniform_where_they_should_be(
    points: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    gamma = np.log([values["gamma"] for values, _ in points]) / np.log(200)
    first, second = np.array([values["phase_boundaries"] for values, _ in points]).T
    u, v = (first - 0.05) / 0.9, (second - first) / (0.95 - first)
    for sample in (gamma, u, v):
        assert stats.kstest(sample, "uniform").pvalue > 0.01
    assert abs(stats.spearmanr(u, v).statistic) < 0.15  # the second is free of the first


def test_a_point_of_the_space_is_encoded_to_itself(points: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    space = parse_space(EVERY_KIND, FIXED)
    for values, parameters in points[:50]:
        assert space.nearest(parse_solver({**FIXED, **values})) == pytest.approx(parameters)
        assert space.values(parameters) == values


def test_settings_outside_of_the_space_are_moved_into_it() -> None:
    mapping = {
        "guidance_scale": {"float": [5, 9]},
        "discrepancy": {"log": [2, 8]},
        "phase_order": {"choice": ["pixel_then_latent"]},
        "phase_boundaries": {"ordered": [0.5, 0.9]},
    }
    space = parse_space(mapping, FIXED)
    solver = parse_solver({**FIXED, "discrepancy": None})
    assert space.values(space.nearest(solver)) == {
        "guidance_scale": 5.0,
        "discrepancy": pytest.approx(4.0),  # no number: the middle, of a logarithm the geometric one
        "phase_order": "pixel_then_latent",
        "phase_boundaries": [0.5, pytest.approx(2 / 3)],
    }


def test_a_grid_is_the_product_without_inactive_fields() -> None:
    mapping = {
        "latent_lr": {"log": [0.001, 0.1], "when": {"final_latent_fit": [True]}},
        "final_latent_fit": {"choice": [True, False]},
        "projection_interval": {"int": [2, 4]},
    }
    grid = parse_space(mapping, FIXED).grid(5)
    assert len(grid) == 3 * (5 + 1)  # three whole numbers, five rates with the fit, none without
    assert {tuple(sorted(point)) for point in grid} == {
        ("final_latent_fit", "latent_lr", "projection_interval"),
        ("final_latent_fit", "projection_interval"),
    }
    assert all(a != b for a, b in itertools.combinations(grid, 2))
    assert sorted({point["latent_lr"] for point in grid if "latent_lr" in point}) == pytest.approx(
        [0.001, 10**-2.5, 0.01, 10**-1.5, 0.1]
    )


WRONG = {
    "unknown field": (
        {"gama": {"log": [1, 2]}},
        "space.gama: unknown key (did you mean 'gamma'?); allowed: num_steps,",
    ),
    "fixed as well": ({"num_steps": {"int": [1, 9]}}, "space.num_steps: is fixed under solver as well"),
    "unknown kind": ({"gamma": {"lgo": [1, 2]}}, "space.gamma.lgo: unknown key (did you mean 'log'?); allowed: float"),
    "two kinds": ({"gamma": {"log": [1, 2], "float": [1, 2]}}, "space.gamma: needs exactly one of float, log"),
    "no kind": ({"gamma": [1, 2]}, "space.gamma: must be a mapping such as {log: [0.1, 10]} (got [1, 2])"),
    "ends swapped": ({"gamma": {"log": [2, 1]}}, "space.gamma.log: must be [low, high] with low < high (got [2, 1])"),
    "log of zero": ({"gamma": {"log": [0, 1]}}, "space.gamma.log: a logarithm needs numbers above 0 (got [0, 1])"),
    "not whole": ({"projection_interval": {"int": [1.5, 3]}}, "space.projection_interval.int: must be two whole"),
    "below the field": ({"guidance_scale": {"float": [-1, 1]}}, "space.guidance_scale: must be greater than or equal"),
    "beyond the field": ({"phase_boundaries": {"ordered": [0, 2]}}, "space.phase_boundaries.1: must be less than"),
    "fractions of a whole field": ({"projection_interval": {"float": [1, 9]}}, "space.projection_interval: must be a"),
    "no such option": ({"phase_order": {"choice": ["pixel_first"]}}, "space.phase_order: must be 'latent_then_pixel'"),
    "a pair for a number": ({"gamma": {"ordered": [1, 2]}}, "space.gamma: must be a valid number"),
    "when of no choice": (
        {"gamma": {"log": [1, 2], "when": {"latent_lr": 1}}},
        "space.gamma.when.latent_lr: is not a choice of this space; allowed: none in this space",
    ),
    "when never": (
        {"phase_order": {"choice": ["latent_then_pixel"]}, "gamma": {"log": [1, 2], "when": {"phase_order": "no"}}},
        "space.gamma.when.phase_order: never is 'no'; allowed: latent_then_pixel",
    ),
    "a circle": (
        {
            "encode_correction": {"choice": [True], "when": {"final_projection": True}},
            "final_projection": {"choice": [True], "when": {"encode_correction": True}},
        },
        "space: fields wait for each other in a circle (encode_correction, final_projection)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_space_is_one_line(name: str) -> None:
    mapping, expected = WRONG[name]
    with pytest.raises(RequestError) as caught:
        parse_space(mapping, FIXED)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_around_the_reference_every_option_and_corner_stands_once_where_it_is_searched() -> None:
    mapping = {
        "latent_lr": {"log": [0.001, 0.1], "when": {"final_latent_fit": True}},
        "final_latent_fit": {"choice": [True, False]},
        "phase_order": {"choice": ["latent_then_pixel", "pixel_then_latent"]},
    }
    space = parse_space(mapping, FIXED)
    found = list(space.around(parse_solver(FIXED)))
    by_field = {field: [values for name, values in found if name == field] for field in mapping}
    assert [values["phase_order"] for values in by_field["phase_order"]] == ["latent_then_pixel", "pixel_then_latent"]
    assert [values["final_latent_fit"] for values in by_field["final_latent_fit"]] == [True, False]
    # the default, no fit, has no rate: its condition is met where the rate is the field that varies
    assert {values["latent_lr"] for values in by_field["latent_lr"]} >= {0.001, 0.1}
    for values in (each for points in by_field.values() for each in points):
        assert ("latent_lr" in values) == values["final_latent_fit"]
        parse_solver({**FIXED, **values})

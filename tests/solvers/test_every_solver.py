"""Laws that hold for every registered solver: a new one is tested by being registered."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import NEEDS
from ipsolve.solvers import SOLVERS, Solver, parse_solver

from .conftest import SHAPE, posed

# the smallest settings that still visit every phase
SMALL: dict[str, dict[str, Any]] = {
    "tv": {"num_steps": 5},
    "admm_pnp": {"num_steps": 4, "start_std": 1.0, "renoise": 0.5},
    "csgm": {"iterations": 4},
    "deep_image_prior": {"channels": 6, "in_channels": 3, "scales": 2, "iterations": 8, "window": 3, "patience": 2},
    "score_ald": {"num_steps": 4, "langevin_steps": 2},
    "score_sde": {"num_steps": 4},
    "ilvr": {"num_steps": 4, "range_t": 0},
    "ccdf": {"num_steps": 8, "start": 0.5, "corrector_steps": 1},
    "ddrm": {"num_steps": 6},
    "snips": {"num_steps": 4, "langevin_steps": 2},
    "ddnm": {"num_steps": 6, "travel_length": 2, "travel_repeat": 2},
    "dps": {"num_steps": 6},
    "dpps": {"num_steps": 6, "num_candidates": 4},
    "mcg": {"num_steps": 6},
    "pigdm": {"num_steps": 8, "start": 0.75},
    "dmps": {"num_steps": 6},
    "mmps": {"num_steps": 6, "iterations": 2},
    "optimal_covariance": {"num_steps": 6, "mle_sigma_thres": 1.0},
    "gauss_newton_dps": {"num_steps": 6, "iterations": 2},
    "dds": {"num_steps": 4, "cg_steps": 3},
    "treg": {"num_steps": 6, "interval": 2, "until": 0.8, "cg_steps": 3},
    "mpgd": {"num_steps": 6},
    "dsg": {"num_steps": 6, "interval": 2},
    "dmap": {"num_steps": 4, "ascent_steps": 2},
    "diffpir": {"num_steps": 6, "start": "pinv", "skip": "quadratic"},
    "daps": {"num_steps": 3, "ode_steps": 2, "langevin_steps": 4, "momentum": 0.5, "gradient_clip": 1.0},
    "dcdp": {"num_steps": 3, "iterations": 4, "ddim_steps": 2},
    "sitcom": {"num_steps": 3, "iterations": 6, "lr": 0.1, "lambda_": 0.1},
    "fast_dips": {"num_steps": 4, "iterations": 2, "descent_steps": 2},
    "latino": {"num_steps": 4},
    "dmplug": {"iterations": 8, "lr": 0.1, "window": 3, "patience": 2},
    "red_diff": {"num_steps": 6},
    "rlsd": {"num_steps": 6, "num_particles": 3},
    "smcdiff": {"num_steps": 6, "num_particles": 3},
    "mcgdiff": {"num_steps": 6, "num_particles": 3},
    "fps": {"num_steps": 6, "num_particles": 3},
    "tds": {"num_steps": 6, "num_particles": 3},
    "fk_steering": {
        "num_steps": 6,
        "num_particles": 3,
        "resample_frequency": 2,
        "resampling_t_start": 1,
        "resampling_t_end": 4,
    },
    "latent_dps": {"num_steps": 6},
    "psld": {"num_steps": 6},
    "p2l": {"num_steps": 6, "interval": 2},
    "stsl": {"num_steps": 3, "inner_steps": 2, "num_probes": 2, "eta": 0.5},
    "flowdps": {"num_steps": 4, "step_size": 0.3},
    "flowchef": {"num_steps": 4, "iterations": 2, "guidance_scale": 5.0},
    "flair": {"num_steps": 4, "data_steps": 4, "data_lr": 0.5},
    "resample": {"num_steps": 12, "consistency_interval": 2, "pixel_iterations": 4, "latent_iterations": 4},
    "nullspace_resample": {"num_steps": 12, "projection_interval": 2, "latent_iterations": 4},
}
TASKS = [
    {"operator": "super_resolution", "factor": 2, "noise_std": 0.05},
    {"operator": "random_inpainting", "noise_std": 0.05},
    {"operator": "motion_blur", "kernel_size": 3, "shape": "centred", "noise_std": 0.05},
]
# rounding depends on the batch size; the exact A^+ of a blur, by conjugate gradients, amplifies it up to a few 1e-6
TOLERANCE = {"motion_blur": 1e-5}


def small(name: str) -> Solver:
    return parse_solver({"solver": name, **SMALL.get(name, {})})


def one_sample(solver: Solver, problem: Problem) -> Tensor:
    """Return one reconstruction of each image, (B, *SHAPE), as the evaluation draws it."""
    return draw(solver, problem)[:, 0]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["operator"])
@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_float32_stays_float32(name: str, task: dict[str, Any], kind: str, request: pytest.FixtureRequest) -> None:
    """noise_std and the levels of the schedule are float64: neither may carry the images over."""
    solver, prior = small(name), request.getfixturevalue(f"{kind}_prior")
    try:
        solver.check(parse_task(task), prior.traits)
    except RequestError:
        return
    seen: set[torch.dtype] = set()
    watched = copy.copy(prior)  # the prior itself is that of all tests
    watched.denoise = lambda z, t: seen.add(z.dtype) or prior.denoise(z, t).to(z.dtype)
    with torch.no_grad():
        x_hat = one_sample(solver, posed(task, watched, dtype=torch.float32).problem)
    assert seen | {x_hat.dtype} == {torch.float32}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["operator"])
@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_every_image_stands_alone(name: str, task: dict[str, Any], kind: str, request: pytest.FixtureRequest) -> None:
    """A row of a batch is what the image gives by itself, in value and in cost; the order does not matter.

    And the cost is what the method says: no more where it may stop early, else exactly.
    """
    solver, prior = small(name), request.getfixturevalue(f"{kind}_prior")
    try:
        solver.check(parse_task(task), prior.traits)
    except RequestError:
        return
    metered = MeteredPrior(prior, 3)
    problem = posed(task, metered).problem
    with torch.no_grad():
        together = one_sample(solver, problem)
    assert together.shape == (3, *SHAPE)
    assert together.isfinite().all()
    stated = solver.cost(parse_task(task).traits | prior.traits)
    for row in reversed(range(3)):
        own = MeteredPrior(prior, 1)
        with torch.no_grad():
            alone = one_sample(solver, replace(posed(task, prior).problem.select(torch.tensor([row])), prior=own))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=TOLERANCE.get(task["operator"], 1e-9))
        for each, counts in metered.counts.items():
            assert int(own.counts[each]) == int(counts[row]), each
            bound = getattr(stated, each)
            assert int(counts[row]) <= bound if each in stated.up_to else int(counts[row]) == bound, each


@pytest.mark.parametrize("name", list(SOLVERS))
def test_metadata_says_what_a_solver_is(name: str) -> None:
    solver = small(name)
    assert solver.family == type(solver).__module__.split(".")[2].replace("_", " ")
    assert str(solver.citation).count(str(solver.citation.year)) == 1
    assert solver.requires <= NEEDS.keys()


@pytest.mark.parametrize("name", [name for name in SOLVERS if "linear" in SOLVERS[name].requires])
def test_non_linear_operators_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(RequestError, match=f"solver {name} needs a linear operator, hdr is not"):
        small(name).check(parse_task({"operator": "hdr"}), frozenset({"latent"}))


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_blind_task_is_refused_by_methods_that_are_told_the_operator(name: str) -> None:
    task = parse_task({"operator": "motion_blur", "kernel_size": 3, "boundary": "circular", "blind": True})
    with pytest.raises(RequestError, match="the task is blind"):
        small(name).check(task, frozenset({"latent", "pixel", "noisy", "noiseless"}))


def test_presets_set_fields_and_fields_override_them() -> None:
    paper = parse_solver({"solver": "resample", "preset": "paper", "gamma": 7})
    assert (paper.guidance_scale, paper.variance_denominator, paper.gamma) == (0.0, "alpha", 7.0)  # type: ignore[attr-defined]
    assert parse_solver({"solver": "resample", "preset": "official"}) == parse_solver({"solver": "resample"})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"solver": "resampel"}, r"s\.solver: unknown solver 'resampel' \(did you mean 'resample'\?\)"),
        ({"solver": "resample", "preset": "papr"}, r"s\.preset: unknown preset 'papr' \(did you mean 'paper'\?\)"),
        ({"solver": "resample", "num_step": 3}, r"s\.num_step: unknown key \(did you mean 'num_steps'\?\)"),
        ({"solver": "resample", "num_steps": 0}, r"s\.num_steps: must be greater than or equal to 2 \(got 0\)"),
        ({"solver": "resample", "phase_boundaries": [0.7, 0.2]}, r"s\.phase_boundaries: must be two increasing"),
        ({}, r"s\.solver: is required"),
    ],
)
def test_wrong_requests_are_one_line(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_solver(mapping, "s")
    assert "\n" not in str(caught.value)

"""Every image has its own noise level: nothing of an answer comes from the level of a neighbour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ipsolve.evaluation.sampling import draw
from ipsolve.operators import parse_task
from ipsolve.priors import Prior
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import SOLVERS, Solver, parse_solver

from .conftest import posed
from .test_every_solver import SMALL, small

TASKS = [{"operator": "super_resolution", "factor": 2}, {"operator": "random_inpainting"}]
# settings under which the level matters where it does not at the smallest ones, or matters in another place
VARIANTS: dict[str, dict[str, Any]] = {
    "ccdf": {"signal_std": 0.5},
    "daps": {"tau": None, "likelihood": "gaussian"},
    "ddnm": {"noise_rule": "scalar"},
    "diffpir": {"start": "noise", "min_noise_std": 0.03},
    "fast_dips": {"epsilon": None},
    "flair": {"data_steps": 60, "data_lr": 1.0},
    "ilvr": {"signal_std": 0.5},
    "mcgdiff": {"num_steps": 40},
    "nullspace_resample": {"estimate_std": 0.3, "discrepancy": 1.0, "latent_iterations": 40},
    "optimal_covariance": {"guidance": "II", "covariance": "diffpir", "sampler": "ddim"},
    "pigdm": {"start": 1.0, "adaptive_weight": False},
    "score_sde": {"signal_std": 0.5},
    "sitcom": {"stop_margin": 0.1},
}
SETTINGS = [small(name) for name in SOLVERS] + [
    parse_solver({"solver": name, **SMALL[name], **variant}) for name, variant in VARIANTS.items()
]
# these have one form for exact measurements and another for noisy ones, and a batch takes one of them
TWO_FORMS = {"ddnm", "ddrm", "dds", "tds"}

every_solver = pytest.mark.parametrize("solver", SETTINGS, ids=lambda solver: solver.name)
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task["operator"])
both_priors = pytest.mark.parametrize("kind", ["pixel", "latent"])


def alone(task: dict[str, Any], prior: Prior, noise_std: float, row: int) -> Problem:
    return posed({**task, "noise_std": noise_std}, prior).problem.select(torch.tensor([row]))


def mixed(task: dict[str, Any], prior: Prior, levels: list[float]) -> Problem:
    """Return a batch whose images have the levels."""
    y = torch.cat([alone(task, prior, noise_std, row).y for row, noise_std in enumerate(levels)])
    return replace(posed(task, prior).problem, y=y, noise_std=torch.tensor(levels, dtype=torch.float64))


def accepts(solver: Solver, task: dict[str, Any], prior: Prior, levels: list[float]) -> bool:
    try:
        for noise_std in levels:
            solver.check(parse_task({**task, "noise_std": noise_std}), prior.traits)
    except RequestError:
        return False
    return True


def assert_each_stands_alone(solver: Solver, task: dict[str, Any], prior: Prior, levels: list[float]) -> None:
    with torch.no_grad():
        together = draw(solver, mixed(task, prior, levels))
        for row, noise_std in enumerate(levels):
            own = draw(solver, alone(task, prior, noise_std, row))
            torch.testing.assert_close(own[0], together[row], rtol=0, atol=1e-9)


@every_task
@every_solver
@both_priors
def test_an_image_gives_what_it_gives_alone_at_its_own_level(
    solver: Solver, task: dict[str, Any], kind: str, request: pytest.FixtureRequest
) -> None:
    prior, levels = request.getfixturevalue(f"{kind}_prior"), [0.02, 0.05, 0.2]
    if accepts(solver, task, prior, levels):
        assert_each_stands_alone(solver, task, prior, levels)


@pytest.mark.parametrize("solver", SETTINGS[len(SOLVERS) :], ids=lambda solver: solver.name)
def test_the_level_of_an_image_matters_to_it(solver: Solver, request: pytest.FixtureRequest) -> None:
    """Or the laws here would say nothing: under the level of the first image the others come out otherwise."""
    prior, levels = (
        request.getfixturevalue(f"{'latent' if 'latent' in solver.needs() else 'pixel'}_prior"),
        [0.02, 0.05, 0.2],
    )
    problem = mixed(TASKS[0], prior, levels)
    with torch.no_grad():
        other = draw(solver, replace(problem, noise_std=problem.noise_std[:1].expand(3)))
        own = draw(solver, mixed(TASKS[0], prior, levels))
    torch.testing.assert_close(other[0], own[0], rtol=0, atol=1e-9)
    assert ((other - own)[1:].abs().flatten(1).amax(1) > 1e-6).all()


@every_task
@every_solver
@both_priors
def test_exact_and_noisy_images_are_not_mixed_up(
    solver: Solver, task: dict[str, Any], kind: str, request: pytest.FixtureRequest
) -> None:
    """A method of two forms refuses a batch of both; any other gives each image its own answer."""
    prior, levels = request.getfixturevalue(f"{kind}_prior"), [0.05, 0.0, 0.2]
    if not accepts(solver, task, prior, levels):
        return
    if solver.name in TWO_FORMS:
        with pytest.raises(ValueError, match="noise_std: of one batch all are above 0, or all 0"):
            draw(solver, mixed(task, prior, levels))
    else:
        assert_each_stands_alone(solver, task, prior, levels)

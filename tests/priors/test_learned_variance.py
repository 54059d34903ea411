"""The variance that a network has learned: between DDPM's two closed forms, and where it is drawn with."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import Level, MeteredPrior, PixelPrior, load_prior, prior_summary
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.steps.diffusion import learned_std, posterior_std, transition_variance
from tests.priors.conftest import small_unet
from tests.solvers.conftest import posed
from tests.solvers.gaussian_problem import IDS, SCHEDULES, D, gaussian_problem, steps

Make = Callable[..., Path]
LEARNED = DPS(num_steps=6, zeta=0.0, variance="learned")


class WithVariance(MixturePrior):
    """A mixture that claims to have learned v, of all entries."""

    abilities = frozenset({"learned_variance"})

    def __init__(self, prior: MixturePrior, v: float) -> None:
        super().__init__(prior.mixture, prior.image_shape, prior.schedule)
        self.v = v

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        return self.denoise(x_t, t), torch.full_like(x_t, self.v)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_ends_are_the_closed_forms(schedule: str) -> None:
    levels = SCHEDULES[schedule].levels(7)
    for t, s in pairwise(levels[:-1]):
        smallest, largest = posterior_std(t, s), math.sqrt(transition_variance(t, s))
        assert 0 < smallest < largest
        v = torch.tensor([0.0, 1.0, 0.5, 0.25], dtype=torch.float64)
        expected = [smallest, largest, math.sqrt(smallest * largest), smallest**0.75 * largest**0.25]
        torch.testing.assert_close(learned_std(v, t, s), torch.tensor(expected, dtype=v.dtype), rtol=1e-12, atol=0)
    clean = Level(0.0, 1.0, 0.0)
    assert learned_std(torch.ones(2), levels[-2], clean).tolist() == [0, 0]


@pytest.mark.parametrize("num_steps", [4, 10, 1000])
def test_it_is_that_of_diffusers_on_the_grid_that_is_walked(make_folder: Make, num_steps: int) -> None:
    """The betas are of the respaced grid, and the output of the network in [-1, 1] is v in [0, 1]."""
    scheduler = {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "steps_offset": 0}
    folder = make_folder(scheduler=scheduler, unet=small_unet(out_channels=6))
    prior = load_prior({"prior": "pixel", "path": str(folder)}, precision="float64")
    theirs = DDPMScheduler.from_pretrained(folder / "scheduler")
    theirs.set_timesteps(num_steps)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for time in theirs.timesteps[:: max(num_steps // 4, 1)]:
        before = int(theirs.previous_timestep(time))
        if before < 0:
            continue
        t, s = prior.schedule.level(float(time)), prior.schedule.level(before)
        eps, raw = prior.unet(x, time.double()).sample.chunk(2, 1)  # type: ignore[attr-defined]
        x_0, v = prior.denoise_with_variance(x, t)
        log_variance = theirs._get_variance(time, predicted_variance=raw, variance_type="learned_range")
        torch.testing.assert_close(learned_std(v, t, s), torch.exp(0.5 * log_variance), rtol=1e-4, atol=0)
        torch.testing.assert_close(x_0, (x - t.sigma * eps) / t.alpha, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(x_0, prior.denoise(x, t))
        assert not v.requires_grad


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dps_draws_with_it(schedule: str) -> None:
    """v = 0 is the fixed variance of DPS, v = 1 the noise of beta_t; the mean of a step is the same."""
    gauss = gaussian_problem(schedule)
    prior = gauss.problem.prior
    assert isinstance(prior, MixturePrior)
    fixed = gauss.solve(DPS(num_steps=6, zeta=0.3))
    learned = DPS(num_steps=6, zeta=0.3, variance="learned")
    torch.testing.assert_close(gauss.solve(learned, WithVariance(prior, 0.0)), fixed, rtol=1e-10, atol=1e-10)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(6)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, 6, 1.0):
        x_0, z = gauss.denoise(x, step.t), rng.normal(D, dtype=torch.float64)
        std = math.sqrt(transition_variance(step.t, step.s)) if step.s.sigma > 0 else 0.0
        x = step.s.alpha * x_0 + step.c_2 * (x - step.t.alpha * x_0) / step.t.sigma + std * z
    unguided = gauss.solve(DPS(num_steps=6, zeta=0.0, variance="learned"), WithVariance(prior, 1.0))
    torch.testing.assert_close(unguided, x, rtol=1e-10, atol=1e-10)


def test_it_takes_no_second_call(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(out_channels=6))
    prior = load_prior({"prior": "pixel", "path": str(folder)}, precision="float64")
    assert isinstance(prior, PixelPrior)
    task = {"operator": "super_resolution", "factor": 2, "noise_std": 0.1}
    counts = []
    for solver in (LEARNED, DPS(num_steps=6, zeta=0.0)):
        metered = MeteredPrior(prior, 3)
        problem = posed(task, metered).problem
        found = solver.solve(problem)
        assert bool(found.isfinite().all())
        counts.append({name: count.tolist() for name, count in metered.counts.items() if count.any()})
        assert solver.cost(prior.traits) == DPS(num_steps=6).cost(prior.traits)
    assert counts[0] == counts[1] == {"denoiser": [6] * 3, "denoiser_backward": [6] * 3}


def test_patches_of_pixels_have_it_too(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(12, out_channels=24))
    prior = load_prior({"prior": "pixel", "path": str(folder)})
    x, t = torch.randn(2, 3, 16, 16), prior.schedule.level(300)
    x_0, v = prior.denoise_with_variance(x, t)
    torch.testing.assert_close(x_0, prior.denoise(x, t))
    assert v.shape == x.shape


def test_a_prior_without_it_is_refused_in_one_line(make_folder: Make) -> None:
    prior = load_prior({"prior": "mixture", "image_shape": [3, 4, 4]})
    task = parse_task({"operator": "denoising", "noise_std": 0.1})
    with pytest.raises(
        RequestError, match=r"solver dps needs a prior that has learned the variance .* allowed: .*fixed"
    ):
        LEARNED.check(task, prior.traits)
    with pytest.raises(TypeError, match="prior mixture has not learned the variance of its steps"):
        prior.denoise_with_variance(torch.zeros(1, 3, 4, 4), prior.schedule.level(3))
    with pytest.raises(RequestError, match="learned is of steps with eta 1"):
        parse_solver({"solver": "dps", "variance": "learned", "eta": 0.5})
    folder = make_folder(unet=small_unet())
    assert "learned_variance" not in prior_summary({"prior": "pixel", "path": str(folder)}).traits
    with pytest.raises(TypeError, match="prior pixel has not learned the variance"):
        load_prior({"prior": "pixel", "path": str(folder)}).denoise_with_variance(
            torch.zeros(1, 3, 8, 8), Level(3, 0.9, 0.4)
        )

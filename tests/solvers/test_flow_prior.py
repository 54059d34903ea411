"""Every solver on priors that start from pure noise, alpha = 0: flows, and tables with zero terminal SNR."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ipsolve.operators import parse_task
from ipsolve.priors import FlowMatching, Schedule, linear
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Level, zero_terminal_snr
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import SOLVERS
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in, vp_scale

from .conftest import SHAPE, ShuffledPrior, mixture, posed
from .test_every_solver import TASKS, one_sample, small


def zero_snr(num_steps: int) -> Schedule:
    """A table whose grid of ``num_steps`` begins at its last entry, where alpha is 0."""
    return zero_terminal_snr(linear(steps_offset=999 - (num_steps - 1) * 1000 // num_steps))


@pytest.mark.parametrize("path", ["flow", "zero_snr"])
@pytest.mark.parametrize("kind", ["pixel", "latent"])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_starts_from_pure_noise(name: str, kind: str, path: str) -> None:
    solver, task = small(name), parse_task(TASKS[0])
    num_steps = getattr(solver, "num_steps", 4)
    prior = ShuffledPrior(mixture()) if kind == "latent" else MixturePrior(mixture(), SHAPE)
    prior.schedule = FlowMatching(shift=3.0) if path == "flow" else zero_snr(num_steps)
    assert prior.schedule.levels(num_steps)[0][1:] == (0, 1)
    try:
        solver.check(task, prior.traits)
    except RequestError:
        return
    with torch.no_grad():
        assert one_sample(solver, posed(TASKS[0], prior).problem).isfinite().all()


def variance_preserving(t: Level) -> Level:
    """The level of the same sigma / alpha on the unit circle."""
    return Level(t.time, t.alpha / vp_scale(t), t.sigma / vp_scale(t))


def test_a_flow_is_a_variance_preserving_prior_in_other_coordinates() -> None:
    """Scaled by sqrt(alpha^2 + sigma^2), a flow and its DDIM steps are those of the same prior on a VP grid.

    So that a method written for x_t = alpha x_0 + sigma eps needs no conversion of either.
    """
    prior = MixturePrior(mixture(), SHAPE)
    levels = FlowMatching(shift=2.0).levels(20)
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = x.clone()
    for t, s in pairwise(levels):
        t_vp, s_vp = variance_preserving(t), variance_preserving(s)
        assert t_vp.alpha**2 + t_vp.sigma**2 == pytest.approx(1)
        x_0, z_0 = prior.denoise(x, t), prior.denoise(z, t_vp)
        torch.testing.assert_close(x_0, z_0, rtol=0, atol=1e-9)
        x, z = ddim_step(x_0, noise_in(x, x_0, t), t, s), ddim_step(z_0, noise_in(z, z_0, t_vp), t_vp, s_vp)
        torch.testing.assert_close(x, z * vp_scale(s), rtol=0, atol=1e-9)

"""The shared steps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from ipsolve.priors import Level, linear, scaled_linear
from ipsolve.solvers.steps.diffusion import (
    cap_rms,
    ddim_step,
    gradient,
    noise_in,
    posterior_std,
    stochastic_resample,
    transition_variance,
)

SCHEDULE = scaled_linear(0.0015, 0.0195)
T, S = SCHEDULE.level(600), SCHEDULE.level(500)
EXPLODING = (Level(3.0, 1.0, 3.0), Level(2.0, 1.0, 2.0))


def test_transition_variance_is_one_minus_the_ratio_of_cumulative_alphas() -> None:
    assert transition_variance(T, S) == pytest.approx(1 - T.alpha**2 / S.alpha**2)
    assert transition_variance(*EXPLODING) == pytest.approx(3.0**2 - 2.0**2)


@pytest.mark.parametrize(("t", "s"), [(T, S), EXPLODING])
def test_ddim_with_eta_one_is_the_posterior_of_ddpm(t: Level, s: Level) -> None:
    """Mean and variance of q(x_s | x_t, x_0) by Gaussian conditioning, on any schedule."""
    x_0, x_t = torch.tensor([0.3]), torch.tensor([-1.2])
    a = t.alpha / s.alpha
    precision = 1 / s.sigma**2 + a**2 / transition_variance(t, s)
    mean = (s.alpha * x_0 / s.sigma**2 + a * x_t / transition_variance(t, s)) / precision
    stepped = ddim_step(x_0, noise_in(x_t, x_0, t), t, s, eta=1.0, noise=torch.zeros(1))
    torch.testing.assert_close(stepped, mean, rtol=1e-4, atol=1e-5)
    assert posterior_std(t, s) == pytest.approx(precision**-0.5, rel=1e-6)


def test_ddim_keeps_the_marginal_for_every_eta() -> None:
    """If x_t = alpha_t x_0 + sigma_t eps, then x_s has mean alpha_s x_0 and variance sigma_s^2."""
    generator = torch.Generator().manual_seed(0)
    eps, noise = torch.randn(2, 400_000, generator=generator)
    x_0 = torch.full_like(eps, 0.5)
    for eta in (0.0, 0.5, 1.0):
        x_s = ddim_step(x_0, noise_in(T.alpha * x_0 + T.sigma * eps, x_0, T), T, S, eta, noise)
        assert x_s.mean().item() == pytest.approx(S.alpha * 0.5, abs=5e-3)
        assert x_s.std().item() == pytest.approx(S.sigma, abs=5e-3)


def test_the_end_of_the_schedule_is_the_clean_estimate() -> None:
    end = linear().levels(10)[-1]
    torch.testing.assert_close(ddim_step(torch.ones(2), torch.ones(2), T, end, 1.0, torch.ones(2)), torch.ones(2))


def test_stochastic_resampling_lies_between_old_state_and_renoised_estimate() -> None:
    x_0, x_s, noise = torch.tensor([0.7]), torch.tensor([-2.0]), torch.tensor([0.4])
    torch.testing.assert_close(stochastic_resample(x_0, x_s, S, 1e-12, noise), x_s, atol=1e-5, rtol=0)
    renoised = S.alpha * x_0 + S.sigma * noise
    torch.testing.assert_close(stochastic_resample(x_0, x_s, S, 1e12, noise), renoised, atol=1e-5, rtol=0)


def test_stochastic_resampling_is_the_product_of_two_gaussians() -> None:
    v, x_0, x_s = 0.3, torch.tensor([0.7]), torch.tensor([-2.0])
    precision = 1 / v + 1 / S.sigma**2
    mean = (x_s / v + S.alpha * x_0 / S.sigma**2) / precision
    torch.testing.assert_close(stochastic_resample(x_0, x_s, S, v, torch.zeros(1)), mean)
    spread = stochastic_resample(x_0, x_s, S, v, torch.ones(1)) - mean
    assert spread.item() == pytest.approx(1 / math.sqrt(precision), rel=1e-5)


def test_gradient_is_per_image_and_leaves_no_graph() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    out = gradient(lambda z: z.square().sum(1), x)
    torch.testing.assert_close(out, 2 * x)
    assert not out.requires_grad
    assert not x.requires_grad


def test_cap_rms_limits_each_image_by_itself() -> None:
    update = torch.tensor([[3.0, 4.0], [0.1, 0.0], [0.0, 0.0]])
    capped = cap_rms(update, 0.5)
    torch.testing.assert_close(capped[0].square().mean().sqrt(), torch.tensor(0.5))
    torch.testing.assert_close(capped[0] / capped[0].norm(), update[0] / update[0].norm())
    torch.testing.assert_close(capped[1:], update[1:])
    torch.testing.assert_close(cap_rms(update, None), update)

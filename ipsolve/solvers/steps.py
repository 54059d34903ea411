"""The steps that diffusion solvers share, on any schedule x_t = alpha_t x_0 + sigma_t eps.

Times run from noise to image: a step leads from level t to the cleaner level s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ipsolve.conventions import per_image
from ipsolve.priors.schedules import Level


def noise_in(x_t: Tensor, x_0: Tensor, t: Level) -> Tensor:
    """Return eps with x_t = alpha_t x_0 + sigma_t eps, the noise that goes with an estimate of x_0."""
    return (x_t - t.alpha * x_0) / t.sigma


def transition_variance(t: Level, s: Level) -> float:
    """Return the variance of q(x_t | x_s) = N(alpha_t / alpha_s x_s, .): 1 - ab_t / ab_s for variance preserving."""
    return max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)


def posterior_std(t: Level, s: Level) -> float:
    """Return the std of q(x_s | x_t, x_0), DDPM's noise (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""
    return s.sigma / t.sigma * math.sqrt(transition_variance(t, s))


def ddim_step(x_0: Tensor, eps: Tensor, t: Level, s: Level, eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """Return x_s from estimates of x_0 and eps (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

    eta 0 is deterministic, eta 1 is DDPM. ``noise`` ~ N(0, I) is needed for eta > 0.
    """
    std = eta * posterior_std(t, s)
    x_s = s.alpha * x_0 + math.sqrt(max(s.sigma**2 - std**2, 0.0)) * eps
    return x_s if noise is None or std == 0 else x_s + std * noise


def stochastic_resample(x_0: Tensor, x_s: Tensor, s: Level, variance: float, noise: Tensor) -> Tensor:
    """Send a data-consistent estimate back to level s, staying close to the state x_s that was there before.

    The product of N(alpha_s x_0, sigma_s^2 I) and N(x_s, ``variance`` I) in the weighting of ReSample
    (Song et al. 2024, arXiv 2307.08123, eq. 13): with v = ``variance``,
    mean (v alpha_s x_0 + sigma_s^2 x_s) / (v + sigma_s^2), covariance v sigma_s^2 / (v + sigma_s^2) I.
    """
    total = variance + s.sigma**2
    mean = (variance * s.alpha * x_0 + s.sigma**2 * x_s) / total
    return mean + math.sqrt(variance * s.sigma**2 / total) * noise


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the gradient of each image's objective, (B, ...) -> (B,), with respect to that image: shape of ``at``."""
    with torch.enable_grad():
        point = at.detach().requires_grad_()
        return torch.autograd.grad(objective(point).sum(), point)[0]


def cap_rms(update: Tensor, limit: float | None) -> Tensor:
    """Scale each image's update down so that its root mean square is at most ``limit`` (None: no limit)."""
    if limit is None:
        return update
    rms = update.flatten(1).square().mean(1).sqrt()
    scale = (limit / rms.clamp_min(torch.finfo(rms.dtype).tiny)).clamp_max(1.0)
    return update * per_image(scale, update)

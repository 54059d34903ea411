"""The steps that diffusion solvers share, on any schedule x_t = alpha_t x_0 + sigma_t eps.

Times run from noise to image: a step leads from level t to the cleaner level s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ipsolve.conventions import per_image
from ipsolve.operators.base import LinearOperator
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level
from ipsolve.problem import Problem


def initial_state(problem: Problem, t: Level) -> Tensor:
    """Return x_t ~ N(0, sigma_t^2 I), the state that sampling starts from, (B, *latent_shape)."""
    return t.sigma * problem.noise()


def steps_run(num_steps: int, share: float) -> int:
    """Return how many of the last steps of a trajectory are run when it is entered late: ``share`` of all, 1 at least.

    Chung et al. 2022 (arXiv 2112.05146): N' = t_0 N.
    """
    return max(round(share * num_steps), 1)


def denoise_with_pullback(prior: Prior, x_t: Tensor, t: Level) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return E[x_0 | x_t] and the map v -> J^T v with its Jacobian J = d x_0 / d x_t, which may be called repeatedly.

    The Jacobian of an exact denoiser is symmetric and gives the posterior covariance: Cov[x_0 | x_t] =
    sigma_t^2 / alpha_t J. The estimate itself carries no graph.
    """
    with torch.enable_grad():
        point = x_t.detach().requires_grad_()
        x_0 = prior.denoise(point, t)

    def pullback(v: Tensor) -> Tensor:
        return torch.autograd.grad(x_0, point, v, retain_graph=True)[0]

    return x_0.detach(), pullback


def noise_in(x_t: Tensor, x_0: Tensor, t: Level) -> Tensor:
    """Return eps with x_t = alpha_t x_0 + sigma_t eps, the noise that goes with an estimate of x_0."""
    return (x_t - t.alpha * x_0) / t.sigma


def clipped(x_0: Tensor, clip: bool) -> Tensor:
    """Return the estimate, clipped to [-1, 1] if asked to: what guided-diffusion does to every estimate of an image."""
    return x_0.clamp(-1, 1) if clip else x_0


def vp_scale(t: Level) -> float:
    """Return sqrt(alpha_t^2 + sigma_t^2): x_t over the variance preserving state with the same sigma / alpha.

    Papers state step sizes for the latter; scaled by it, the same number means the same on any schedule.
    """
    return math.hypot(t.alpha, t.sigma)


def transition_variance(t: Level, s: Level) -> float:
    """Return the variance of q(x_t | x_s) = N(alpha_t / alpha_s x_s, .): 1 - ab_t / ab_s for variance preserving."""
    return max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)


def posterior_std(t: Level, s: Level) -> float:
    """Return the std of q(x_s | x_t, x_0), DDPM's noise (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""
    return s.sigma / t.sigma * math.sqrt(transition_variance(t, s))


def learned_std(v: Tensor, t: Level, s: Level) -> Tensor:
    """Return the std of a step whose variance a network has learned, of each entry of v.

    log var = v log beta_t + (1 - v) log beta~_t (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15): beta_t is the
    variance of q(x_t | x_s) and beta~_t that of q(x_s | x_t, x_0), between the levels that are walked. A step to the
    clean image draws nothing.
    """
    smallest, largest = posterior_std(t, s), math.sqrt(transition_variance(t, s))
    if smallest == 0:
        return torch.zeros_like(v)
    return torch.exp(v * math.log(largest) + (1 - v) * math.log(smallest))


def ddim_step(x_0: Tensor, eps: Tensor, t: Level, s: Level, eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """Return x_s from estimates of x_0 and eps (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

    eta 0 is deterministic, eta 1 is DDPM. ``noise`` ~ N(0, I) is needed for eta > 0.
    """
    std = eta * posterior_std(t, s)
    x_s = s.alpha * x_0 + math.sqrt(max(s.sigma**2 - std**2, 0.0)) * eps
    return x_s if noise is None or std == 0 else x_s + std * noise


def probability_flow(prior: Prior, x: Tensor, levels: Sequence[Level], clip: bool = False) -> Tensor:
    """Follow the probability-flow ODE from x, at levels[0], through ``levels`` to the clean image.

    Deterministic DDIM, which is Euler's method for x_t / alpha_t against sigma_t / alpha_t (Song et al. 2021,
    arXiv 2010.02502, eq. 14). One denoiser call per level, the last being the estimate returned; with a single level
    that is E[x_0 | x_t]. ``clip`` clips every estimate to [-1, 1].
    """
    x_0 = clipped(prior.denoise(x, levels[0]), clip)
    for t, s in pairwise(levels):
        x = ddim_step(x_0, noise_in(x, x_0, t), t, s)
        x_0 = clipped(prior.denoise(x, s), clip)
    return x_0


def renoise(x_0: Tensor, eps: Tensor, s: Level, eta: float, noise: Tensor) -> Tensor:
    """Return x_s = alpha_s x_0 + sigma_s (sqrt(1 - eta^2) eps + eta noise): predicted and fresh noise mixed.

    Unlike in :func:`ddim_step`, eta is the share of fresh noise in the whole of sigma_s and does not depend on where
    the step came from (DDRM, DDNM, DDS).
    """
    return s.alpha * x_0 + s.sigma * (math.sqrt(1 - eta**2) * eps + eta * noise)


def diffuse(x_s: Tensor, s: Level, t: Level, noise: Tensor) -> Tensor:
    """Return x_t ~ q(x_t | x_s) for a noisier level t; ``noise`` ~ N(0, I)."""
    return t.alpha / s.alpha * x_s + math.sqrt(transition_variance(t, s)) * noise


def langevin_step(x: Tensor, score: Tensor, step_size: float | Tensor, noise: Tensor) -> Tensor:
    """Return x + step_size score + sqrt(2 step_size) noise; ``step_size`` is one number or one per image, (B,)."""
    step = torch.as_tensor(step_size, dtype=x.dtype, device=x.device)
    return x + per_image(step, x) * score + per_image((2 * step).sqrt(), x) * noise


def replace_measured(
    operator: LinearOperator,
    problem: Problem,
    x_s: Tensor,
    s: Level,
    noise: Tensor,
    weight: float = 1.0,
    signal_std: float | None = None,
) -> Tensor:
    """Return x_s + weight A^+ (y_s - A x_s): the measured part of x_s is replaced by y_s = alpha_s y + sigma_s A n.

    Song et al. 2022 (arXiv 2111.08005); with the low-pass filter phi = A^+ A it is ILVR's refinement, because
    phi(alpha_s A^+ y + sigma_s n) = A^+ y_s (Choi et al. 2021, arXiv 2108.02938).

    Args:
        noise: n ~ N(0, I), (B, *image_shape).
        signal_std: damp A^+ by (noise_std / signal_std)^2, because the noise of y comes in amplified by 1 / s_i; None
            is the exact A^+.
    """
    damping = 0.0 if signal_std is None else (problem.noise_std / signal_std) ** 2
    y_s = s.alpha * problem.y + s.sigma * operator.forward(noise)
    return x_s + weight * operator.pinv(y_s - operator.forward(x_s), damping)


def stochastic_resample(x_0: Tensor, x_s: Tensor, s: Level, variance: float, noise: Tensor) -> Tensor:
    """Send a data-consistent estimate back to level s, staying close to the state x_s that was there before.

    The product of N(alpha_s x_0, sigma_s^2 I) and N(x_s, ``variance`` I) in the weighting of ReSample
    (Song et al. 2024, arXiv 2307.08123, eq. 13): with v = ``variance``,
    mean (v alpha_s x_0 + sigma_s^2 x_s) / (v + sigma_s^2), covariance v sigma_s^2 / (v + sigma_s^2) I.
    """
    if math.isinf(variance):  # from pure noise, alpha_t = 0, where the old state says nothing
        return s.alpha * x_0 + s.sigma * noise
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

"""Guided sampling: the loop of DPS and its descendants."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.solvers.steps.diffusion import cap_rms, clipped, ddim_step, initial_state, noise_in, vp_scale

Objective = Callable[[Tensor], Tensor]
Chooser = Callable[[Tensor, Tensor, Level, Level], Tensor | None]


def denoise_with_gradient(
    prior: Prior, x_t: Tensor, t: Level, objective: Objective, clip_denoised: bool = False
) -> tuple[Tensor, Tensor]:
    """Return x_0(x_t) and grad_{x_t} objective(x_0(x_t)), the gradient taken through the denoiser.

    Args:
        objective: maps estimates of x_0, (B, *latent_shape), to one value per image, (B,).
        clip_denoised: clip the estimate to [-1, 1] first; clipped entries then send no gradient back.
    """
    with torch.enable_grad():
        point = x_t.detach().requires_grad_()
        x_0 = clipped(prior.denoise(point, t), clip_denoised)
        gradient = torch.autograd.grad(objective(x_0).sum(), point)[0]
    return x_0.detach(), gradient


def guided_sampling(
    problem: Problem,
    objective: Objective,
    *,
    num_steps: int,
    eta: float,
    timestep_spacing: Spacing | None = None,
    max_update_rms: float | None = None,
    clip_denoised: bool = False,
    project: Callable[[Tensor, Level], Tensor] | None = None,
    start: Callable[[Level], Tensor] | None = None,
    choose: Chooser | None = None,
) -> Tensor:
    """Sample by x_s = DDIM(x_t) - grad_{x_t} objective(x_0(x_t)).

    Chung et al. 2023 (arXiv 2209.14687), Algorithm 1, for any objective and schedule. The update is that of the
    variance preserving states, for which the step sizes of papers are made.

    Args:
        objective: maps estimates of x_0, (B, *latent_shape), to one value per image, (B,).
        num_steps, timestep_spacing: the levels, see :meth:`Schedule.levels`.
        max_update_rms: limit on the root mean square of each image's update; None for none.
        clip_denoised: clip every estimate of x_0 to [-1, 1].
        project: applied to every new state x_s at its level s.
        start: the first state, at the noisiest level; None is noise alone.
        choose: the noise of each step, from the guided mean of x_s, eps, t and s; None draws it.

    Returns:
        The final state, (B, *latent_shape).
    """
    prior = problem.prior
    levels = prior.schedule.levels(num_steps, timestep_spacing)
    x_t = initial_state(problem, levels[0]) if start is None else start(levels[0])
    for t, s in pairwise(levels):
        x_0, gradient = denoise_with_gradient(prior, x_t, t, objective, clip_denoised)
        update = vp_scale(s) * cap_rms(vp_scale(t) * gradient, max_update_rms)
        eps = noise_in(x_t, x_0, t)
        if choose is not None:
            noise = choose(ddim_step(x_0, eps, t, s, eta) - update, eps, t, s)
        else:
            noise = problem.noise() if eta > 0 else None
        x_s = ddim_step(x_0, eps, t, s, eta, noise) - update
        x_t = x_s if project is None else project(x_s, s)
    return x_t

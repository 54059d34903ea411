"""Guided sampling: the loop of DPS and its descendants."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.solvers.steps.diffusion import cap_rms, clipped, ddim_step, initial_state, learned_std, noise_in, vp_scale

Objective = Callable[[Tensor], Tensor]
Chooser = Callable[[Tensor, Tensor, Level, Level], Tensor | None]
Variance = Literal["fixed", "learned"]


class Estimate(NamedTuple):
    """x_0 and the gradient of an objective of it with respect to x_t; v is where the prior sees the step's variance."""

    x_0: Tensor
    gradient: Tensor
    v: Tensor | None


def denoise_with_gradient(
    prior: Prior, x_t: Tensor, t: Level, objective: Objective, clip_denoised: bool = False, learned: bool = False
) -> Estimate:
    """Return x_0(x_t) and grad_{x_t} objective(x_0(x_t)), the gradient taken through the denoiser.

    Args:
        objective: maps estimates of x_0, (B, *latent_shape), to one value per image, (B,).
        clip_denoised: clip the estimate to [-1, 1] first; clipped entries then send no gradient back.
        learned: return v of the same call too; the objective sends no gradient through it.
    """
    with torch.enable_grad():
        point = x_t.detach().requires_grad_()
        x_0, v = prior.denoise_with_variance(point, t) if learned else (prior.denoise(point, t), None)
        x_0 = clipped(x_0, clip_denoised)
        gradient = torch.autograd.grad(objective(x_0).sum(), point)[0]
    return Estimate(x_0.detach(), gradient, v)


def guided_sampling(
    problem: Problem,
    objective: Objective,
    *,
    num_steps: int,
    eta: float,
    timestep_spacing: Spacing | None = None,
    max_update_rms: float | None = None,
    clip_denoised: bool = False,
    correct: Callable[[int, Tensor], Tensor] | None = None,
    variance: Variance = "fixed",
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
        correct: maps a step, counted from 0, and its estimate to the one that DDIM goes on with, eps kept.
        variance: ``learned``: that of DDPM steps (eta 1) is what the prior has learned, their mean stays what it is.
        project: applied to every new state x_s at its level s.
        start: the first state, at the noisiest level; None is noise alone.
        choose: the noise of each step, from the guided mean of x_s, eps, t and s; None draws it.

    Returns:
        The final state, (B, *latent_shape).
    """
    prior = problem.prior
    levels = prior.schedule.levels(num_steps, timestep_spacing)
    x_t = initial_state(problem, levels[0]) if start is None else start(levels[0])
    for step, (t, s) in enumerate(pairwise(levels)):
        x_0, gradient, v = denoise_with_gradient(prior, x_t, t, objective, clip_denoised, variance == "learned")
        update = vp_scale(s) * cap_rms(vp_scale(t) * gradient, max_update_rms)
        eps = noise_in(x_t, x_0, t)
        x_0 = x_0 if correct is None else correct(step, x_0)
        if choose is not None:
            noise = choose(ddim_step(x_0, eps, t, s, eta) - update, eps, t, s)
        else:
            noise = problem.noise() if eta > 0 else None
        if v is None or noise is None:
            x_s = ddim_step(x_0, eps, t, s, eta, noise) - update
        else:
            x_s = ddim_step(x_0, eps, t, s, eta) + learned_std(v, t, s) * noise - update
        x_t = x_s if project is None else project(x_s, s)
    return x_t

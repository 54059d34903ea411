"""MCLC: Langevin steps after a guided step that leave the data term, to first order, as it is.

Lee, Lim, Cha & Oh 2026, "Measurement-Consistent Langevin Corrector for Stabilizing Latent Diffusion Inverse Problem
Solvers" (arXiv 2601.04791), a plug-in for latent methods: at the new state z at level s, with g = grad r / ||grad r||,

    r  = ||A(D(z_0(z))) - y||,    P = I - g g^T
    z <- z + P ( eta_s score(z) + sqrt(2 eta_s) n ),    eta_s = step_size sigma_s^2

The state is drawn towards the marginal of the prior at s, from which guidance has led it away, and <grad r, dz> = 0.
Read in notes on the paper, not in the paper: its step sizes, and how many steps at which levels, could not be looked
up, nor whether its r is of the state after the step, as here, or is the one that guided the step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image
from ipsolve.priors.schedules import Level
from ipsolve.problem import Problem
from ipsolve.solvers.steps.diffusion import langevin_step
from ipsolve.solvers.steps.guidance import denoise_with_gradient

Correction = Callable[[Tensor, Level], Tensor]

MCLC = Citation(
    key="lee2026mclc",
    authors="Lee, Hyoseok and Lim, Sohwi and Cha, Eunju and Oh, Tae-Hyun",
    title="Measurement-Consistent Langevin Corrector for Stabilizing Latent Diffusion Inverse Problem Solvers",
    year=2026,
    venue="ICML",
    arxiv="2601.04791",
)


def corrected(problem: Problem, z: Tensor, s: Level, *, steps: int, step_size: float) -> Tensor:
    """Return the state z at level s after corrector steps, each of which differentiates denoiser and decoder.

    Args:
        step_size: in units of sigma_s^2, so that it means the same at every level and on every schedule.
    """
    for _ in range(steps):
        z_0, slope, _ = denoise_with_gradient(problem.prior, z, s, problem.distance)
        score = (s.alpha * z_0 - z) / s.sigma**2
        step = langevin_step(z, score, step_size * s.sigma**2, problem.noise()) - z
        z = z + orthogonal(step, slope)
    return z


def orthogonal(step: Tensor, slope: Tensor) -> Tensor:
    """Return the part of each image's step that is orthogonal to its slope; all of it where the slope is 0."""
    length = norm(slope)
    g = slope * per_image(torch.where(length > 0, 1 / length, 0.0), slope)
    return step - per_image((g * step).flatten(1).sum(1), step) * g


def num_corrections(num_steps: int, corrector_steps: int) -> int:
    """Return how many corrector steps a method of ``num_steps`` takes: none at its end, which may be clean."""
    return (num_steps - 1) * corrector_steps


def corrector(problem: Problem, levels: list[Level], *, steps: int, step_size: float) -> Correction | None:
    """Return what corrects a new state at its level, None for no steps; the last of ``levels`` is left alone."""
    if steps == 0:
        return None

    def correct(z: Tensor, s: Level) -> Tensor:
        return z if s == levels[-1] else corrected(problem, z, s, steps=steps, step_size=step_size)

    return correct

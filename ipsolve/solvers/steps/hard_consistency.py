"""Hard data consistency: what ReSample and its descendants do at selected steps of the trajectory.

Song et al. 2024, "Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency" (arXiv 2307.08123).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from ipsolve.priors.schedules import Level
from ipsolve.problem import Problem
from ipsolve.solvers.steps.diffusion import transition_variance
from ipsolve.solvers.steps.optimise import adamw

Denominator = Literal["sigma", "alpha"]


def _ordered(boundaries: tuple[float, float]) -> tuple[float, float]:
    if boundaries[0] > boundaries[1]:
        raise ValueError("must be two increasing numbers")
    return boundaries


Fraction = Annotated[float, Field(ge=0, le=1)]
PhaseBoundaries = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]


def phase_of(step: int, num_steps: int, boundaries: tuple[float, float]) -> int:
    """Return the phase, 1 to 3, of step 0 (noise) to num_steps - 1 (image); boundaries are fractions of the way."""
    progress = step / num_steps
    return 1 + (progress >= boundaries[0]) + (progress >= boundaries[1])


def is_hit(step: int, num_steps: int, interval: int) -> bool:
    """Return whether hard consistency is due: every ``interval`` steps counted from the end, the last step excepted."""
    remaining = num_steps - 1 - step
    return remaining > 0 and remaining % interval == 0


def resampling_variance(gamma: float, t: Level, s: Level, denominator: Denominator) -> float:
    """Return the variance that stochastic resampling gives the old state at level s.

    gamma sigma_s^2 / alpha_t^2 (1 - ab_t / ab_s) as in the paper (eq. 13, ``alpha``), or with sigma_t^2 in place of
    alpha_t^2 as in the authors' code (``sigma``): gamma times the variance of DDPM's posterior.
    """
    scale = t.sigma if denominator == "sigma" else t.alpha
    return gamma * s.sigma**2 / scale**2 * transition_variance(t, s)


def fit_latent(
    problem: Problem, z: Tensor, *, lr: float, max_iterations: int, threshold: float | Tensor, patience: int | None
) -> Tensor:
    """Return argmin_z ||A(D(z)) - y||^2 / m from z on (eq. 12 of ReSample), by AdamW, each image to its own stop."""
    return adamw(
        lambda rows: problem.select(rows).mean_square,
        z,
        lr=lr,
        max_iterations=max_iterations,
        threshold=threshold,
        patience=patience,
    )


def fit_pixels(problem: Problem, x: Tensor, *, lr: float, max_iterations: int, threshold: float) -> Tensor:
    """Return argmin_x ||A(x) - y||^2 / m from x on (eq. 11 of ReSample), by AdamW, each image to its own stop."""
    return adamw(
        lambda rows: problem.select(rows).image_mean_square,
        x,
        lr=lr,
        max_iterations=max_iterations,
        threshold=threshold,
    )

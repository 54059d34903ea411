"""ReSample: hard data consistency at some steps, then stochastic resampling back to the trajectory.

Song, Kwon, Zhang, Hu, Qu & Shen 2024, "Solving Inverse Problems with Latent Diffusion Models via Hard Data
Consistency" (arXiv 2307.08123), Algorithm 1. Three phases from noise to image: plain sampling; consistency by
optimisation in pixel space (eq. 11), encoded again; consistency by optimisation in latent space (eq. 12).

The authors' code differs from the paper; each difference is a field, and the two presets are ``official`` (the
code as it is, the default) and ``paper``. Differences that belong elsewhere: the code decodes through the quantiser and
uses the raw, not the averaged weights (options of the prior), and adds noise to masked pixels (of the operator).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.corrector import corrector, num_corrections
from ipsolve.solvers.steps.diffusion import ddim_step, gradient, noise_in, stochastic_resample
from ipsolve.solvers.steps.hard_consistency import (
    Denominator,
    PhaseBoundaries,
    fit_latent,
    fit_pixels,
    is_hit,
    phase_of,
    resampling_variance,
)


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ReSample(Solver):
    """ReSample.

    Args:
        phase_boundaries: where phases 2 (pixel) and 3 (latent) begin, as fractions of the way from noise to image.
        consistency_interval: steps between two hard-consistency blocks.
        gamma: weight of the estimate against the old state in stochastic resampling.
        variance_denominator: see :func:`resampling_variance`.
        guidance_scale: every step also descends ||A(D(x_0)) - y|| by guidance_scale * alpha_t^2 (in the code, not
            in Algorithm 1; 0 is off).
        denoiser_gradient: whether that gradient passes through the denoiser.
        x0_formula: ``tweedie``, (z - sigma eps) / alpha, or ``official``, (z - sigma^2 eps) / alpha.
        lookahead: unconditional steps taken ahead before x_0 is estimated for a consistency block.
        lookahead_off_by_one: those steps read alpha and sigma one grid level too noisy, as in the code.
        pixel_lr, pixel_iterations, latent_lr, latent_iterations: AdamW, at its default weight decay 0.01.
        latent_patience: a latent fit also stops when its loss exceeds that of so many iterations before.
        stop_threshold: a fit stops below this mean squared residual (1e-6 fits noise of std 0.01 completely).
        corrector_steps: steps of MCLC after each step but the last (:mod:`ipsolve.solvers.steps.corrector`); 0 is off.
        corrector_step_size: of them, in units of the variance of the noise at the level.
    """

    name: ClassVar[str] = "resample"
    citation: ClassVar[Citation] = Citation(
        key="song2024resample",
        authors="Song, Bowen and Kwon, Soo Min and Zhang, Zecheng and Hu, Xinyu and Qu, Qing and Shen, Liyue",
        title="Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency",
        year=2024,
        venue="ICLR",
        arxiv="2307.08123",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {},
        "paper": {
            "guidance_scale": 0.0,
            "x0_formula": "tweedie",
            "variance_denominator": "alpha",
            "lookahead": 1,
            "lookahead_off_by_one": False,
        },
    }

    num_steps: Annotated[int, Field(ge=2)] = 500
    timestep_spacing: Spacing | None = None
    phase_boundaries: PhaseBoundaries = (1 / 3, 2 / 3)
    consistency_interval: Annotated[int, Field(ge=1)] = 10
    gamma: Annotated[float, Field(gt=0)] = 40.0
    variance_denominator: Denominator = "sigma"
    guidance_scale: Annotated[float, Field(ge=0)] = 0.5
    denoiser_gradient: bool = False
    x0_formula: Literal["tweedie", "official"] = "official"
    lookahead: Annotated[int, Field(ge=1)] = 5
    lookahead_off_by_one: bool = True
    pixel_lr: Annotated[float, Field(gt=0)] = 1e-2
    pixel_iterations: Annotated[int, Field(ge=0)] = 2000
    latent_lr: Annotated[float, Field(gt=0)] = 5e-3
    latent_iterations: Annotated[int, Field(ge=0)] = 500
    latent_patience: Annotated[int, Field(ge=1)] = 200
    stop_threshold: Annotated[float, Field(ge=0)] = 1e-6
    corrector_steps: Annotated[int, Field(ge=0)] = 0
    corrector_step_size: Annotated[float, Field(gt=0)] = 0.01

    def cost(self, traits: Traits) -> Cost:
        hits = [i for i in range(self.num_steps) if self._is_hit(i)]
        ahead = sum(min(self.lookahead, self.num_steps - 1 - i) for i in hits)
        guided = self.num_steps if self.guidance_scale > 0 else 0
        corrected = num_corrections(self.num_steps, self.corrector_steps)
        calls = Cost(self.num_steps + ahead + corrected, corrected + (guided if self.denoiser_gradient else 0))
        if "latent" not in traits:
            return calls
        in_pixels = sum(phase_of(i, self.num_steps, self.phase_boundaries) == 2 for i in hits)
        fitted = guided + corrected + (len(hits) - in_pixels + 1) * self.latent_iterations
        return replace(
            calls,
            decoder=fitted + in_pixels + 1,
            decoder_backward=fitted,
            encoder=in_pixels,
            up_to=frozenset({"decoder", "decoder_backward"}),
        )

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        correct = corrector(problem, levels, steps=self.corrector_steps, step_size=self.corrector_step_size)
        z = levels[0].sigma * problem.noise()
        for step, (t, s) in enumerate(pairwise(levels)):
            z = self._guided_step(problem, z, t, s)
            if self._is_hit(step):
                z_0 = self._consistent(problem, self._look_ahead(prior, z, levels[step:]), step)
                variance = resampling_variance(self.gamma, t, s, self.variance_denominator)
                z = stochastic_resample(z_0, z, s, variance, problem.noise())
            z = z if correct is None else correct(z, s)
        return prior.decode(self._fit_latent(problem, z))

    def _consistent(self, problem: Problem, z_0: Tensor, step: int) -> Tensor:
        """Return the estimate made consistent with y in the space of the step's phase."""
        if phase_of(step, self.num_steps, self.phase_boundaries) == 3:
            return self._fit_latent(problem, z_0)
        x = fit_pixels(
            problem,
            problem.prior.decode(z_0),
            lr=self.pixel_lr,
            max_iterations=self.pixel_iterations,
            threshold=self.stop_threshold,
        )
        return problem.prior.encode(x)

    def _is_hit(self, step: int) -> bool:
        in_phase = phase_of(step, self.num_steps, self.phase_boundaries) > 1
        return in_phase and is_hit(step, self.num_steps, self.consistency_interval)

    def _estimate(self, z: Tensor, eps: Tensor, t: Level) -> Tensor:
        return (z - (t.sigma if self.x0_formula == "tweedie" else t.sigma**2) * eps) / t.alpha

    def _guided_step(self, problem: Problem, z: Tensor, t: Level, s: Level) -> Tensor:
        """Return the DDIM step, descended on ||A(D(x_0)) - y||."""
        through_denoiser = self.denoiser_gradient and self.guidance_scale > 0
        with torch.set_grad_enabled(through_denoiser):
            z_t = z.detach().requires_grad_(through_denoiser)
            z_0 = problem.prior.denoise(z_t, t)
            eps = noise_in(z_t, z_0, t)
            estimate = self._estimate(z_t, eps, t)
        stepped = ddim_step(z_0.detach(), eps.detach(), t, s)
        if self.guidance_scale == 0 or t.alpha == 0:  # pure noise, on which the update has no weight
            return stepped
        if through_denoiser:
            with torch.enable_grad():
                update = torch.autograd.grad(problem.distance(estimate).sum(), z_t)[0]
        else:  # eps held constant: the chain rule leaves 1 / alpha_t
            update = gradient(problem.distance, estimate) / t.alpha
        return stepped - self.guidance_scale * t.alpha**2 * update

    def _look_ahead(self, prior: Prior, z: Tensor, levels: list[Level]) -> Tensor:
        """Return x_0 estimated after some unconditional steps from z, which is at levels[1]."""
        z_0 = z
        for k in range(min(self.lookahead, len(levels) - 2)):
            eps = noise_in(z, prior.denoise(z, levels[k + 1]), levels[k + 1])
            shift = 0 if self.lookahead_off_by_one else 1
            t, s = levels[k + shift], levels[k + 1 + shift]
            z_0 = self._estimate(z, eps, t)
            z = ddim_step((z - t.sigma * eps) / t.alpha, eps, t, s)
        return z_0

    def _fit_latent(self, problem: Problem, z_0: Tensor) -> Tensor:
        return fit_latent(
            problem,
            z_0,
            lr=self.latent_lr,
            max_iterations=self.latent_iterations,
            threshold=self.stop_threshold,
            patience=self.latent_patience,
        )

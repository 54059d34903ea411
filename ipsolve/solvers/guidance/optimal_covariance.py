"""Posterior sampling with the likeliest covariance of p(x_0 | x_t), and with those that other methods made by hand.

Peng et al. 2024, "Improving Diffusion Models for Inverse Problems Using Optimal Posterior Covariance" (arXiv
2402.02149). In variance-exploding terms z = x_t / alpha_t, r = sigma_t / alpha_t, with p(x_0 | x_t) taken as N(x_0, V),

    m = A^T (sigma_y^2 I + A V A^T)^-1 (y - A x_0)
    type I:   E[x_0 | x_t, y] = x_0 + r^2 J^T m,   J = d x_0 / d z   (m held)
    type II:  E[x_0 | x_t, y] = x_0 + V m                            (no gradient)

and any sampler runs with it in place of x_0. Both are exact for a Gaussian prior of covariance C with
V = r^2 C (C + r^2 I)^-1. V below ``mle_sigma_thres``, above which it is that of ``pgdm``:

    analytic  v I, or diagonal in the Haar wavelet with a v for each band: a table of the mean squared error of x_0
    convert   of the variance that a network has learned for a step to the next time of its table: it is beta~ + c^2 V
              where q(x_s | x_t, x_0) = N(c x_0 + .., beta~), c = alpha_s (1 - (r_s / r_t)^2)
    tmpd      diag(r^2 J^T 1), the row sums of the covariance (Boys et al. 2023, arXiv 2310.06721)
    pgdm      r^2 / (1 + r^2) I
    diffpir   r^2 / lambda I, at all levels
    dps       0, at all levels; type I is then DPS with the weight that the noise of y gives

Departures: the wavelet form of the paper is predicted from x_t by a trained head, here it is the mean over data in the
same basis. Its script for the table of ``analytic`` adds up batches and forgets to divide by their number (in the
version read). In its ``pgdm`` guidance the step of type I is multiplied by v, as ``pigdm`` does. It bounds sigma_y from
below by 0.001. A row sum of J that is negative counts as next to 0 here, as does a learned variance below beta~.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.linalg import conjugate_gradient
from ipsolve.operators.base import LinearOperator, require
from ipsolve.operators.tasks import Task
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import (
    clipped,
    ddim_step,
    initial_state,
    learned_std,
    noise_in,
    posterior_std,
)
from ipsolve.solvers.steps.haar import haar, haar_bands, inverse_haar
from ipsolve.solvers.steps.variances import Table, haar_levels_of, variances_at

Pullback = Callable[[Tensor], Tensor]  # u -> J^T u

_CG = (1000, 1e-4)  # iterations and tolerance of the authors' code
_SMALLEST_SHARE = 1e-6  # of r^2: no entry of x_0 is taken for certain


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class OptimalCovariance(Solver):
    """Guidance of types I and II with a pixel prior.

    Args:
        guidance: ``I``, by a gradient of the denoiser, or ``II``, without.
        covariance: V, see above.
        variances: the table of ``analytic``, rows of r, growing, and v; or of r and 3 L + 1 numbers, the bands of L
            levels of the wavelet: :func:`ipsolve.solvers.steps.variances.estimate_variances` of training images.
        mle_sigma_thres: r from which on V is that of ``pgdm``.
        lambda_: of ``diffpir``.
        sampler: ``heun``, of second order and deterministic, or ``ddim`` with ``eta``.
        eta: of ``ddim``: 1 is DDPM.
        clip_denoised: clip E[x_0 | x_t, y] to [-1, 1] as the authors' code does; for priors of images. Without it type
            I diverges where V misses most of r^2 J, as of images, whose variance lies in few directions.
    """

    name: ClassVar[str] = "optimal_covariance"
    citation: ClassVar[Citation] = Citation(
        key="peng2024covariance",
        authors="Peng, Xinyu and Zheng, Ziyang and Dai, Wenrui and others",
        title="Improving Diffusion Models for Inverse Problems Using Optimal Posterior Covariance",
        year=2024,
        venue="ICML",
        arxiv="2402.02149",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 50
    timestep_spacing: Spacing | None = None
    guidance: Literal["I", "II"] = "I"
    covariance: Literal["analytic", "convert", "tmpd", "pgdm", "diffpir", "dps"] = "tmpd"
    variances: tuple[tuple[Annotated[float, Field(gt=0)], ...], ...] | None = None
    mle_sigma_thres: Annotated[float, Field(ge=0)] = 0.2
    lambda_: Annotated[float, Field(gt=0)] = 8.0
    sampler: Literal["heun", "ddim"] = "heun"
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    clip_denoised: bool = False

    def __post_init__(self) -> None:
        require(
            self.covariance != "dps" or self.guidance == "I",
            "guidance: with covariance=dps II is no guidance; allowed: I",
        )
        if self.covariance == "analytic" and self.variances is not None:
            widths = {len(row) for row in self.variances}
            grows = all(a[0] < b[0] for a, b in pairwise(self.variances))
            fits = len(widths) == 1 and min(widths) >= 2 and (min(widths) - 2) % 3 == 0
            require(fits and grows, "variances: must be rows of a growing ratio and 1 or 3 L + 1 variances")

    def needs(self) -> Traits:
        wavelet = self.covariance == "analytic" and self.variances is not None and haar_levels_of(self.variances) > 0
        wanted = {"noisy": self.covariance == "dps", "image": wavelet, "learned_variance": self.covariance == "convert"}
        return super().needs() | {trait for trait, needed in wanted.items() if needed}

    def check(self, task: Task, prior: Traits) -> None:
        if self.covariance == "analytic" and self.variances is None:
            raise RequestError(f"solver {self.name} with covariance=analytic needs variances, a table of the prior's")
        super().check(task, prior)

    def cost(self, traits: Traits) -> Cost:
        calls = 2 * self.num_steps - 1 if self.sampler == "heun" else self.num_steps
        backward = calls * ((self.guidance == "I") + (self.covariance == "tmpd"))
        return Cost(denoiser=calls, denoiser_backward=backward, up_to=frozenset({"denoiser", "denoiser_backward"}))

    def solve(self, problem: Problem) -> Tensor:
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            x_0 = self._posterior_mean(problem, x, t)
            stochastic = self.sampler == "ddim" and self.eta > 0
            noise, eta = (problem.noise(), self.eta) if stochastic else (None, 0.0)
            x_s = ddim_step(x_0, noise_in(x, x_0, t), t, s, eta, noise)
            if self.sampler == "heun" and s is not levels[-1] and t.alpha > 0:
                # Karras et al. 2022, Algorithm 1, in z: the mean of the slopes (z - x_0) / r at both ends
                end = self._posterior_mean(problem, x_s, s)
                slope = (x / t.alpha - x_0) / t.ratio + (x_s / s.alpha - end) / s.ratio
                x_s = s.alpha * (x / t.alpha + (s.ratio - t.ratio) * slope / 2)
            x = x_s
        return x

    def _posterior_mean(self, problem: Problem, x_t: Tensor, t: Level) -> Tensor:
        """Return the estimate of E[x_0 | x_t, y]."""
        if t.alpha == 0:  # pure noise, of which y says nothing
            return clipped(problem.prior.denoise(x_t, t), self.clip_denoised)
        x_0, pullback, v = self._denoise(problem.prior, x_t, t)
        variance = self._converted(v, t, problem.prior.schedule) if v is not None else self._variance(x_0, t, pullback)
        m = _weighted_residual(problem, problem.linear_operator, x_0, variance)
        if self.guidance == "I" and pullback is not None:
            x_0 = x_0 + t.sigma**2 / t.alpha * pullback(m)
        else:
            x_0 = x_0 + (variance * m if isinstance(variance, float) else variance(m))
        return clipped(x_0, self.clip_denoised)

    def _denoise(self, prior: Prior, x_t: Tensor, t: Level) -> tuple[Tensor, Pullback | None, Tensor | None]:
        """Return E[x_0 | x_t], J^T as far as the settings need it, and v of the variance of a step likewise."""
        gradient = self.guidance == "I" or self.covariance == "tmpd"
        with torch.set_grad_enabled(gradient):
            point = x_t.detach().requires_grad_(gradient)
            if self.covariance == "convert" and t.ratio < self.mle_sigma_thres:
                x_0, v = prior.denoise_with_variance(point, t)
            else:
                x_0, v = prior.denoise(point, t), None

        def pullback(u: Tensor) -> Tensor:
            return torch.autograd.grad(x_0, point, u, retain_graph=True)[0]

        return x_0.detach(), pullback if gradient else None, v

    def _converted(self, v: Tensor, t: Level, schedule: Schedule) -> Callable[[Tensor], Tensor]:
        """Return u -> V u of what a network says of the variance of a step to the next time of its table."""
        s = schedule.level(t.time - 1)
        gain = s.alpha * (1 - (s.ratio / t.ratio) ** 2)
        variance = (learned_std(v, t, s) ** 2 - posterior_std(t, s) ** 2) / gain**2
        least = _SMALLEST_SHARE * t.ratio**2
        return lambda u: variance.clamp_min(least) * u

    def _variance(self, x_0: Tensor, t: Level, pullback: Pullback | None) -> float | Callable[[Tensor], Tensor]:
        """Return V, as v where it is v I, else as the map u -> V u."""
        if self.covariance == "dps":
            return 0.0
        if self.covariance == "diffpir":
            return t.ratio**2 / self.lambda_
        if self.covariance == "pgdm" or t.ratio >= self.mle_sigma_thres:
            return t.ratio**2 / (1 + t.ratio**2)
        if self.covariance == "tmpd":
            assert pullback is not None
            rows = (t.sigma**2 / t.alpha * pullback(torch.ones_like(x_0))).clamp_min(_SMALLEST_SHARE * t.ratio**2)
            return lambda u: rows * u
        assert self.variances is not None
        return _tabled(self.variances, x_0, t)


def _tabled(table: Table, x_0: Tensor, t: Level) -> float | Callable[[Tensor], Tensor]:
    values, levels = variances_at(table, t.ratio), haar_levels_of(table)
    if levels == 0:
        return values[0]
    height, width = x_0.shape[-2:]
    diagonal = x_0.new_tensor(values)[haar_bands(height, width, levels).to(x_0.device)]
    return lambda u: inverse_haar(diagonal * haar(u, levels), levels)


def _weighted_residual(
    problem: Problem, operator: LinearOperator, x_0: Tensor, variance: float | Callable[[Tensor], Tensor]
) -> Tensor:
    """Return m, (B, *image_shape)."""
    misfit = -problem.residual(x_0)
    noise = problem.noise_std**2
    if isinstance(variance, float):
        if variance == 0:
            return operator.adjoint(misfit) / per_image(noise, misfit)
        return operator.pinv(misfit, noise / variance) / variance

    def evidence(u: Tensor) -> Tensor:
        return per_image(noise, u) * u + operator.forward(variance(operator.adjoint(u)))

    return operator.adjoint(conjugate_gradient(evidence, misfit, *_CG))

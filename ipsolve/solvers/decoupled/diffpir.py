"""DiffPIR: half-quadratic splitting whose prior step is a diffusion denoiser.

Zhu, Zhang, Liang, Cao, Wen, Timofte & Van Gool 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration"
(arXiv 2305.08995), Algorithm 1. With s_t = sigma_t / alpha_t, at each level:

    x_0   = E[x_0 | x_t]
    x_0'  = argmin_z ||A z - y||^2 + rho_t ||z - x_0||^2,    rho_t = lambda sigma_n^2 / s_t^2
    eps'  = (x_t - alpha_t x_0') / sigma_t
    x_s   = alpha_s x_0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) fresh noise)

Latent priors: the proximal step is taken on D(z_0) and its result encoded.

Departures of the authors' code. Its rho_t holds sigma_n of images in [0, 1] beside s_t of images in [-1, 1], so that
its lambda = 1 is 0.25 here, where both are in units of [-1, 1] (the ``official`` presets; the floor of sigma_n, 0.001,
becomes 0.002 likewise). It clips estimates to [-1, 1] (``clip_denoised``), and its answer is the state at the cleanest
level of its grid, without another estimate (``answer``). Not followed: it starts from y as if that were an image with
its noise, where ``start`` pinv adds all of sigma_T; and its first-order step for operators without closed form has
length 1 / rho_t, which diverges where rho_t is small, and is bounded by the curvature here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.base import require
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Level, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped, initial_state, noise_in
from ipsolve.solvers.steps.proximal import data_prox

_OFFICIAL = {"lambda_": 0.25, "min_noise_std": 0.002, "start": "pinv", "skip": "quadratic"}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DiffPIR(Solver):
    """DiffPIR.

    Args:
        lambda_: weight of the prior against the measurement.
        zeta: share of fresh noise in each step; the rest is the predicted noise.
        min_noise_std: sigma_n = max(min_noise_std, noise_std), so that noiseless data keep a proximal weight.
        start: ``noise``, x_T ~ N(0, sigma_T^2 I), or ``pinv``, x_T = alpha_T A^+ y + sigma_T noise (A^+ damped by
            noise_std^2; linear operators only).
        skip: ``uniform``, the steps of the schedule, or ``quadratic``: the i-th of n on its 1000-step grid is
            1000 sqrt(i / (n - 1)), sparse at high noise and dense at low noise.
        clip_denoised: clip estimates to [-1, 1] before the proximal step as the authors' code does; for pixel priors.
        answer: the consistent ``estimate`` of the last step, or the ``state`` at the level that it leads to, as in the
            authors' code; its quadratic grid has the cleanest level at its end, where no step begins.
        prox_iterations, prox_lr: gradient steps that stand for the proximal step of a non-linear A, each of length
            prox_lr / (1 + rho_t): stable up to 1 where the Jacobian of A has norm 1. Linear operators need none.
    """

    name: ClassVar[str] = "diffpir"
    citation: ClassVar[Citation] = Citation(
        key="zhu2023diffpir",
        authors="Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and Timofte, Radu and "
        "Van Gool, Luc",
        title="Denoising Diffusion Models for Plug-and-Play Image Restoration",
        year=2023,
        venue="CVPR Workshops",
        arxiv="2305.08995",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official_deblurring": {**_OFFICIAL, "zeta": 0.1},
        "official_super_resolution": {**_OFFICIAL, "zeta": 0.1},
        "official_inpainting": {**_OFFICIAL, "zeta": 1.0},
    }

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    lambda_: Annotated[float, Field(ge=0)] = 1.0
    zeta: Annotated[float, Field(ge=0, le=1)] = 0.1
    min_noise_std: Annotated[float, Field(ge=0)] = 0.001
    start: Literal["noise", "pinv"] = "noise"
    skip: Literal["uniform", "quadratic"] = "uniform"
    clip_denoised: bool = False
    answer: Literal["estimate", "state"] = "estimate"
    prox_iterations: Annotated[int, Field(ge=1)] = 20
    prox_lr: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        require(
            self.skip == "uniform" or self.timestep_spacing is None,
            "timestep_spacing: is of skip=uniform; the quadratic grid has its own",
        )

    def cost(self, traits: Traits) -> Cost:
        calls = self.num_steps if self.skip == "uniform" else len(self._quadratic()) - (self.answer == "state")
        if "latent" not in traits:
            return Cost(denoiser=calls)
        return Cost(denoiser=calls, decoder=calls + (self.answer == "state"), encoder=calls + (self.start == "pinv"))

    def needs(self) -> Traits:
        wanted = ({"linear"} if self.start == "pinv" else set()) | ({"pixel"} if self.clip_denoised else set())
        return super().needs() | wanted

    def check(self, task: Task, prior: Traits) -> None:
        if self.start == "pinv" and not task.operator.linear:
            what = f"needs a linear operator, {task.operator.name} is not"
            raise RequestError(f"solver {self.name} with start=pinv {what}; allowed: start=noise")
        super().check(task, prior)

    def check_schedule(self, schedule: Schedule) -> None:
        self._levels(schedule)

    def solve(self, problem: Problem) -> Tensor:
        prior, sigma_n = problem.prior, problem.noise_std.clamp(min=self.min_noise_std)
        levels = self._levels(prior.schedule)
        x = initial_state(problem, levels[0])
        if self.start == "pinv":
            x = x + levels[0].alpha * prior.encode(problem.linear_operator.pinv(problem.y, problem.noise_std**2))
        image = x  # replaced in the first step
        for t, s in pairwise(levels):
            rho = self.lambda_ * (sigma_n / t.ratio) ** 2
            image = prior.decode(clipped(prior.denoise(x, t), self.clip_denoised))
            image = data_prox(problem, image, rho, iterations=self.prox_iterations, lr=self.prox_lr)
            x_0 = prior.encode(image)
            eps = noise_in(x, x_0, t)
            fresh = problem.noise()
            x = s.alpha * x_0 + s.sigma * (math.sqrt(1 - self.zeta) * eps + math.sqrt(self.zeta) * fresh)
        return image if self.answer == "estimate" else prior.decode(x)

    def _levels(self, schedule: Schedule) -> list[Level]:
        if self.skip == "uniform":
            return schedule.levels(self.num_steps, self.timestep_spacing)
        levels = [schedule.thousandth(1000 - i) for i in self._quadratic()]
        return levels if self.answer == "state" else [*levels, schedule.levels(1)[-1]]

    def _quadratic(self) -> list[int]:
        """Return the steps of the quadratic grid, counted from noise, those that fall on one entry once."""
        last = max(self.num_steps - 1, 1)
        return list(dict.fromkeys(min(int(1000 * math.sqrt(i / last)), 999) for i in range(self.num_steps)))

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
becomes 0.002 likewise). Its last step takes no proximal step. Its first-order step for operators without closed form
has length 1 / rho_t, which diverges where rho_t is small; here it is bounded by the curvature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.conventions import squared_norm
from ipsolve.operators.base import LinearOperator, Operator, OperatorSpec
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import SOLVERS, Solver
from ipsolve.solvers.steps.diffusion import gradient, initial_state, noise_in
from ipsolve.solvers.steps.likelihood import Likelihood

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
        prox_iterations, prox_lr: gradient steps that stand for the proximal step of a non-linear A, each of length
            prox_lr / (1 + rho_t): stable up to 1 where the Jacobian of A has norm 1. Linear operators need none.
    """

    name: ClassVar[str] = "diffpir"
    paper: ClassVar[str] = "Zhu et al. 2023 (2305.08995)"
    family: ClassVar[str] = "decoupled"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official_deblurring": {**_OFFICIAL, "zeta": 0.1},
        "official_super_resolution": {**_OFFICIAL, "zeta": 0.1},
        "official_inpainting": {**_OFFICIAL, "zeta": 1.0},
    }

    num_steps: Annotated[int, Field(ge=1)] = 100
    lambda_: Annotated[float, Field(ge=0)] = 1.0
    zeta: Annotated[float, Field(ge=0, le=1)] = 0.1
    min_noise_std: Annotated[float, Field(ge=0)] = 0.001
    start: Literal["noise", "pinv"] = "noise"
    skip: Literal["uniform", "quadratic"] = "uniform"
    prox_iterations: Annotated[int, Field(ge=1)] = 20
    prox_lr: Annotated[float, Field(gt=0)] = 1.0

    def cost(self) -> str:
        return f"{self.num_steps} denoiser calls (and decoder and encoder calls for latent priors)"

    def check(self, spec: OperatorSpec, latent: bool, noise_std: float) -> None:
        super().check(spec, latent, noise_std)
        if self.start == "pinv" and not spec.linear:
            raise RequestError(f"solver {self.name} with start=pinv needs a linear operator, {spec.name} is not")

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        data = Likelihood(measurement, operator, prior)
        dtype = measurement.y.dtype
        sigma_n = max(self.min_noise_std, measurement.noise_std)
        levels = self._levels(prior.schedule)
        x = initial_state(prior, rng, levels[0], dtype)
        if self.start == "pinv":
            assert isinstance(operator, LinearOperator)
            x = x + levels[0].alpha * prior.encode(operator.pinv(measurement.y, measurement.noise_std**2))
        image = x  # replaced in the first step
        for t, s in pairwise(levels):
            image = self._prox(data, prior.decode(prior.denoise(x, t)), self.lambda_ * (sigma_n / t.ratio) ** 2)
            x_0 = prior.encode(image)
            eps = noise_in(x, x_0, t)
            fresh = rng.normal(*prior.latent_shape, dtype=dtype)
            x = s.alpha * x_0 + s.sigma * (math.sqrt(1 - self.zeta) * eps + math.sqrt(self.zeta) * fresh)
        return image

    def _levels(self, schedule: Schedule) -> list[Level]:
        if self.skip == "uniform":
            return schedule.levels(self.num_steps)
        last = max(self.num_steps - 1, 1)
        chosen = [min(int(1000 * math.sqrt(i / last)), 999) for i in range(self.num_steps)]
        return [*(schedule.thousandth(1000 - i) for i in dict.fromkeys(chosen)), schedule.levels(1)[-1]]

    def _prox(self, data: Likelihood, x_0: Tensor, rho: float) -> Tensor:
        """Return argmin_x ||A(x) - y||^2 + rho ||x - x_0||^2, from x_0 on where A is not linear."""
        if isinstance(data.operator, LinearOperator):
            return data.operator.prox(x_0, data.measurement.y, rho)
        x = x_0
        for _ in range(self.prox_iterations):
            half_gradient = gradient(lambda z: squared_norm(data.residual(z)) / 2, x) + rho * (x - x_0)
            x = x - self.prox_lr / (1 + rho) * half_gradient
        return x

"""DAPS: decoupled annealing. Every noise level is re-entered from a posterior sample of x_0.

Zhang, Chu, Berner, Meng, Anandkumar & Song 2025, "Improving Diffusion Inverse Problem Solving with Decoupled Noise
Annealing" (arXiv 2407.01521). With s_t = sigma_t / alpha_t falling from sigma_max to sigma_min, at each level:

    1. m   = x_0 at the end of the probability-flow ODE from x_t, by a few Euler steps
    2. x_0 ~ N(x_0; m, s_t^2 I) p(y | x_0), by Langevin steps from m on:
             x <- x + lr (-c grad ||A(x) - y||^2 + (m - x) / s_t^2) + sqrt(2 lr) noise
    3. x_s = alpha_s x_0 + sigma_s noise

c = 1 / tau^2 in the authors' code (``likelihood`` official), which is a Gaussian likelihood of std tau / sqrt(2);
c = 1 / (2 tau^2) makes tau that std (``gaussian``). Step 1 stands for p(x_0 | x_t) by a Gaussian whose width s_t is a
heuristic, exact for a flat prior only. Latent priors (LatentDAPS): step 2 moves z and A(D(z)) is compared with y.

With ``momentum`` m above 0, step 2 is the Hamiltonian form of the code, without accept step: for the score g of the
target, v <- m v + sqrt(lr) g + sqrt(2 (1 - m)) noise, x <- x + sqrt(lr) v from v ~ N(0, I); m = 0 is Langevin.

The ODE of the code does not end with an estimate of x_0 but in the state at ``ode_sigma_min``, reached by as many calls
(``ode_end``). The code leaves the last node of its levels out: N steps there are N here whose sigma_min is the last but
one of N + 1 nodes. Its lr falls over N + 1.

The last level returns its x_0. Not followed: an early version of the code returned m there, and the code maps noise
levels of latent priors to times by another schedule than they were trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image, squared_norm
from ipsolve.operators.base import SpectralOperator
from ipsolve.operators.tasks import Task
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.annealing import levels_between
from ipsolve.solvers.steps.diffusion import ddim_step, gradient, initial_state, noise_in, probability_flow

_LATENT = {"num_steps": 50, "sigma_max": 10.0, "ode_steps": 2, "ode_sigma_min": 0.001, "gradient_clip": 1.0}


def _latent(langevin_steps: int, lr: float, lr_min_ratio: float, momentum: float) -> dict[str, Any]:
    tuned = {"langevin_steps": langevin_steps, "lr": lr, "lr_min_ratio": lr_min_ratio, "momentum": momentum}
    return {**_LATENT, **tuned}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DAPS(Solver):
    """DAPS and LatentDAPS.

    Args:
        num_steps: annealing levels, spaced as in EDM with ``rho`` between sigma_max and sigma_min in sigma_t / alpha_t
            (clipped to what the prior was trained on).
        ode_steps, ode_sigma_min: denoiser calls of step 1, spaced alike from s_t down to ode_sigma_min.
        ode_end: what step 1 hands on: the ``estimate`` of x_0 at the last of these levels, or the ``state`` at
            ode_sigma_min after as many Euler steps, as in the authors' code.
        langevin_steps: of step 2, per level.
        lr: their step size. It falls linearly over the levels towards lr_min_ratio * lr.
        tau: the std of the measurement noise assumed in step 2; null is the true noise_std, which must not be 0 then.
        likelihood: see above.
        limit_lr: keep lr below 1 / L, L the largest curvature of -log of the target, wherever that is known: pixel
            priors with an operator whose singular values are. Elsewhere lr < tau^2 / ||A||^2 is up to the user.
        momentum: 0 for Langevin.
        gradient_clip: limit on each entry of grad ||A(x) - y||^2; null for none.
    """

    name: ClassVar[str] = "daps"
    citation: ClassVar[Citation] = Citation(
        key="zhang2025daps",
        authors="Zhang, Bingliang and Chu, Wenda and Berner, Julius and Meng, Chenlin and Anandkumar, Anima and "
        "Song, Yang",
        title="Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
        year=2025,
        venue="CVPR",
        arxiv="2407.01521",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{task: {"lr": 1e-4} for task in ("super_resolution", "gaussian_blur", "random_inpainting")},
        **{task: {"lr": 5e-5} for task in ("box_inpainting", "motion_blur", "phase_retrieval")},
        "hdr": {"lr": 2e-5},
        "latent_super_resolution": _latent(24, 1.35e-4, 0.023, 0.86),
        "latent_gaussian_blur": _latent(35, 2.7e-6, 0.95, 0.95),
        "latent_motion_blur": _latent(49, 2.4e-5, 0.041, 0.45),
        "latent_random_inpainting": _latent(38, 8.4e-6, 0.013, 0.92),
        "latent_box_inpainting": _latent(15, 9.02e-6, 0.13, 0.74),
        "latent_hdr": _latent(38, 4.52e-6, 0.015, 0.58),
        "latent_phase_retrieval": _latent(65, 2.1e-5, 0.12, 0.41),
    }

    num_steps: Annotated[int, Field(ge=1)] = 200
    sigma_max: Annotated[float, Field(gt=0)] = 100.0
    sigma_min: Annotated[float, Field(gt=0)] = 0.1
    rho: Annotated[float, Field(gt=0)] = 7.0
    ode_steps: Annotated[int, Field(ge=1)] = 5
    ode_sigma_min: Annotated[float, Field(gt=0)] = 0.01
    ode_end: Literal["estimate", "state"] = "estimate"
    langevin_steps: Annotated[int, Field(ge=1)] = 100
    lr: Annotated[float, Field(gt=0)] = 5e-5
    lr_min_ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    tau: Annotated[float, Field(gt=0)] | None = 0.01
    likelihood: Literal["official", "gaussian"] = "official"
    limit_lr: bool = True
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        calls = Cost(denoiser=self.num_steps * self.ode_steps)
        moved = self.num_steps * self.langevin_steps
        return replace(calls, decoder=moved + 1, decoder_backward=moved) if "latent" in traits else calls

    def needs(self) -> Traits:
        return super().needs() | ({"noisy"} if self.tau is None else set())

    def check(self, task: Task, prior: Traits) -> None:
        if self.tau is None and "noisy" not in task.traits:
            raise RequestError(f"solver {self.name} with tau=null needs noisy measurements; allowed: tau above 0")
        super().check(task, prior)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = levels_between(prior.schedule, self.num_steps, self.sigma_max, self.sigma_min, self.rho)
        x = initial_state(problem, levels[0])
        for step, t in enumerate(levels):
            mean = self._ode(prior, x, t)
            lr = self.lr * (1 + step / self.num_steps * (self.lr_min_ratio - 1))
            x_0 = self._posterior_sample(problem, mean, t.ratio, lr)
            if step + 1 < len(levels):
                s = levels[step + 1]
                x = s.alpha * x_0 + s.sigma * problem.noise()
        return prior.decode(x_0)

    def _ode(self, prior: Prior, x: Tensor, t: Level) -> Tensor:
        """Return the end of the probability-flow ODE from x_t, in the units of x_0."""
        nodes = self.ode_steps + (self.ode_end == "state")
        levels = levels_between(prior.schedule, nodes, t.ratio, self.ode_sigma_min, self.rho)
        if self.ode_end == "estimate":
            return probability_flow(prior, x, levels)
        for now, after in pairwise(levels):
            x_0 = prior.denoise(x, now)
            x = ddim_step(x_0, noise_in(x, x_0, now), now, after)
        return x / levels[-1].alpha

    def _posterior_sample(self, problem: Problem, mean: Tensor, width: float, lr: float) -> Tensor:
        """Return x_0 ~ N(mean, width^2 I) p(y | x_0), approximately."""
        tau = problem.noise_std if self.tau is None else torch.full_like(problem.noise_std, self.tau)
        c = 1 / (tau**2 if self.likelihood == "official" else 2 * tau**2)
        weight, root = per_image(c, mean), per_image(self._stable_step(problem, lr, 2 * c, 1 / width**2).sqrt(), mean)
        x = mean
        velocity = torch.zeros_like(mean) if self.momentum == 0 else problem.noise()
        for _ in range(self.langevin_steps):
            slope = gradient(lambda z: squared_norm(problem.residual(problem.prior.decode(z))), x)
            if self.gradient_clip is not None:
                slope = slope.clamp(-self.gradient_clip, self.gradient_clip)
            score = (mean - x) / width**2 - weight * slope
            fresh = math.sqrt(2 * (1 - self.momentum)) * problem.noise()
            velocity = self.momentum * velocity + root * score + fresh
            x = x + root * velocity
        return x

    def _stable_step(self, problem: Problem, lr: float, data_curvature: Tensor, prior_curvature: float) -> Tensor:
        """Return lr of each image, (B,), cut to what is stable where that is known."""
        operator = problem.known_operator
        if not (self.limit_lr and isinstance(operator, SpectralOperator)) or problem.prior.latent:
            return torch.full_like(data_curvature, lr)
        largest = operator.largest_singular_value().flatten()
        return (1 / (data_curvature * largest**2 + prior_curvature)).clamp(max=lr)

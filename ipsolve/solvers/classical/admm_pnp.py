"""Plug-and-play ADMM: the proximal map of the prior is replaced by a denoiser.

Venkatakrishnan, Bouman & Wohlberg 2013, "Plug-and-Play Priors for Model Based Reconstruction", with the denoiser of a
diffusion prior, D_s(v) = E[x_0 | x_0 + s n = v]. For the noise level s = sigma_t / alpha_t and the duals u:

    x <- argmin_x ||A(x) - y||^2 + lambda (noise_std / s)^2 ||x - (z - u)||^2
    z <- D_s(x + u)
    u <- u + x - z

D_s of a Gaussian prior is the proximal map of s^2 times minus its log-density, so that with lambda = 1 this is ADMM on
-log p(x | y) with the penalty 1 / s^2: it ends on the posterior mean, which is the mode, whatever s. On other priors
what it ends on depends on s.

What may be switched on:

* levels that fall geometrically from ``start_std`` to ``denoiser_std``, the strong form of plug-and-play (Zhang et al.
  2021, arXiv 2008.13751). The scaled duals are those of a penalty, and are scaled with it (Boyd et al. 2011, 3.4.1).
* noise before the denoiser, z <- D_s(x + u + renoise s n): x + u is no noisy image, which is what a diffusion model was
  trained on, and at a constant level the result is far off its images (Gulle et al. 2026, arXiv 2509.22736).
* ``dual`` off: u = 0, half-quadratic splitting, whose fixed point is biased. With falling levels it is DPIR (preset
  ``dpir``: the weight and the levels of Zhang et al. 2021, the last one a constant here, where theirs is noise_std).

Latent priors: x and u are images, and z = D(D_s(E(x + u))), s in units of latents. Non-linear A: the proximal step is
taken by gradient steps.

lambda and the levels are the user's in the literature; the defaults here are not a paper's, except in the preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.proximal import data_prox


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ADMMPnP(Solver):
    """Plug-and-play ADMM.

    Args:
        num_steps: ADMM iterations, one denoiser call each.
        denoiser_std: s, the noise level of the denoiser in units of the prior's states; the last one if levels fall.
        start_std: where falling levels begin; null is one level for all iterations.
        lambda_: weight of the prior.
        renoise: std of the noise before the denoiser, in units of s.
        dual: keep the duals u.
        start: z begins at ``pinv``, A^+ y damped by noise_std^2 (linear operators only), or at ``zeros``.
        prox_iterations, prox_lr: gradient steps that stand for the proximal step of a non-linear A, see
            :func:`ipsolve.solvers.steps.proximal.data_prox`.
    """

    name: ClassVar[str] = "admm_pnp"
    citation: ClassVar[Citation] = Citation(
        key="venkatakrishnan2013pnp",
        authors="Venkatakrishnan, Singanallur V. and Bouman, Charles A. and Wohlberg, Brendt",
        title="Plug-and-Play Priors for Model Based Reconstruction",
        year=2013,
        venue="IEEE Global Conference on Signal and Information Processing",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpir": {
            "num_steps": 8,
            "start_std": 2 * 49 / 255,
            "denoiser_std": 2 * 2.55 / 255,
            "lambda_": 0.23,
            "dual": False,
        },
    }

    num_steps: Annotated[int, Field(ge=1)] = 12
    denoiser_std: Annotated[float, Field(gt=0)] = 0.1
    start_std: Annotated[float, Field(gt=0)] | None = None
    lambda_: Annotated[float, Field(ge=0)] = 1.0
    renoise: Annotated[float, Field(ge=0)] = 0.0
    dual: bool = True
    start: Literal["pinv", "zeros"] = "pinv"
    prox_iterations: Annotated[int, Field(ge=1)] = 20
    prox_lr: Annotated[float, Field(gt=0)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        coded = self.num_steps if "latent" in traits else 0
        return Cost(denoiser=self.num_steps, decoder=coded, encoder=coded)

    def needs(self) -> Traits:
        return super().needs() | ({"linear"} if self.start == "pinv" else set())

    def check(self, task: Task, prior: Traits) -> None:
        if self.start == "pinv" and not task.operator.linear:
            what = f"needs a linear operator, {task.operator.name} is not"
            raise RequestError(f"solver {self.name} with start=pinv {what}; allowed: start=zeros")
        super().check(task, prior)

    def solve(self, problem: Problem) -> Tensor:
        prior, levels = problem.prior, self._levels(problem.prior.schedule)
        z = self._start(problem)
        u = torch.zeros_like(z)
        before = levels[0]
        for t in levels:
            u = u * (t.ratio / before.ratio) ** 2
            weight = self.lambda_ * (problem.noise_std / t.ratio) ** 2
            x = data_prox(problem, z - u, weight, iterations=self.prox_iterations, lr=self.prox_lr)
            x_t = t.alpha * prior.encode(x + u)
            if self.renoise > 0:
                x_t = x_t + self.renoise * t.sigma * problem.noise()
            z = prior.decode(prior.denoise(x_t, t))
            if self.dual:
                u = u + x - z
            before = t
        return z

    def _levels(self, schedule: Schedule) -> list[Level]:
        first = self.denoiser_std if self.start_std is None else self.start_std
        return [schedule.at_ratio(s) for s in np.geomspace(first, self.denoiser_std, self.num_steps).tolist()]

    def _start(self, problem: Problem) -> Tensor:
        if self.start == "pinv":
            return problem.linear_operator.pinv(problem.y, problem.noise_std**2)
        return problem.y.new_zeros(problem.batch_size, *problem.prior.image_shape)

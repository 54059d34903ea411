"""RED-diff: variational inference with a point mass, regularised by denoising at every noise level.

Mardani, Song, Kautz & Vahdat 2024, "A Variational Perspective on Solving Inverse Problems with Diffusion Models"
(arXiv 2305.04391). One Adam step on mu per noise level, from noise to image, on

    ||y - A(mu)||^2 / (2 m) + w_t <stopgrad(eps(x_t) - eps), mu> / d,    x_t = alpha_t mu + sigma_t eps,
    w_t = lambda sigma_t / alpha_t,

m measured values and d entries of mu; eps(x_t) is the noise that the denoiser finds. mu is the answer: the method
seeks a mode and has next to no spread. Latent priors: mu is a latent and A(D(mu)) is compared with y.

Departures of the authors' code: A^+ y, where mu starts, is damped by noise_std^2, so that noise is not amplified
where A has tiny singular values; mu is not jittered (by N(0, 1e-8) there). Other weights than the linear one in
sigma_t / alpha_t are left out.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import gradient, noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class REDDiff(Solver):
    """RED-diff.

    Args:
        lambda_: weight of the prior; it multiplies sigma_t / alpha_t.
        lr: of Adam, with betas 0.9 and 0.99: the first steps move every entry by about this much.
        start: mu begins at ``pinv``, A^+ y (linear operators only), or at ``zeros``.
    """

    name: ClassVar[str] = "red_diff"
    citation: ClassVar[Citation] = Citation(
        key="mardani2024reddiff",
        authors="Mardani, Morteza and Song, Jiaming and Kautz, Jan and Vahdat, Arash",
        title="A Variational Perspective on Solving Inverse Problems with Diffusion Models",
        year=2024,
        venue="ICLR",
        arxiv="2305.04391",
    )

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    lambda_: Annotated[float, Field(ge=0)] = 0.25
    lr: Annotated[float, Field(gt=0)] = 0.1
    start: Literal["pinv", "zeros"] = "pinv"

    def cost(self, traits: Traits) -> Cost:
        if "latent" not in traits:
            return Cost(denoiser=self.num_steps)
        fitted, encoded = self.num_steps, int(self.start == "pinv")
        return Cost(denoiser=self.num_steps, decoder=fitted + 1, decoder_backward=fitted, encoder=encoded)

    def needs(self) -> Traits:
        return super().needs() | ({"linear"} if self.start == "pinv" else set())

    def check(self, task: Task, prior: Traits) -> None:
        if self.start == "pinv" and not task.operator.linear:
            what = f"needs a linear operator, {task.operator.name} is not"
            raise RequestError(f"solver {self.name} with start=pinv {what}; allowed: start=zeros")
        super().check(task, prior)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        mu = self._start(problem).detach().clone()
        optimiser = torch.optim.Adam([mu], lr=self.lr, betas=(0.9, 0.99))
        for t in prior.schedule.levels(self.num_steps, self.timestep_spacing)[:-1]:
            noise = problem.noise()
            if t.alpha == 0:  # pure noise (flow matching) says nothing about mu, with infinite weight
                continue
            x_t = t.alpha * mu + t.sigma * noise
            predicted = noise_in(x_t, prior.denoise(x_t, t), t)
            regulariser = self.lambda_ * t.ratio * (predicted - noise) / mu[0].numel()
            mu.grad = gradient(problem.mean_square, mu) / 2 + regulariser
            optimiser.step()
        return prior.decode(mu)

    def _start(self, problem: Problem) -> Tensor:
        if self.start == "pinv":
            return problem.prior.encode(problem.linear_operator.pinv(problem.y, problem.noise_std**2))
        return problem.y.new_zeros(problem.batch_size, *problem.prior.latent_shape)

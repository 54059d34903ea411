"""RED-diff: variational inference with a point mass, regularised by denoising at every noise level.

Mardani, Song, Kautz & Vahdat 2023, "A Variational Perspective on Solving Inverse Problems with Diffusion Models"
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

from ipsolve.operators.base import LinearOperator, Operator, OperatorSpec
from ipsolve.priors.base import Prior
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import SOLVERS, Solver
from ipsolve.solvers.steps.diffusion import gradient, noise_in
from ipsolve.solvers.steps.likelihood import Likelihood


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
    paper: ClassVar[str] = "Mardani et al. 2023 (2305.04391)"
    family: ClassVar[str] = "variational"

    num_steps: Annotated[int, Field(ge=1)] = 1000
    lambda_: Annotated[float, Field(ge=0)] = 0.25
    lr: Annotated[float, Field(gt=0)] = 0.1
    start: Literal["pinv", "zeros"] = "pinv"

    def cost(self) -> str:
        return f"{self.num_steps} denoiser calls (and decoder calls, each with a backward call, for latent priors)"

    def check(self, spec: OperatorSpec, latent: bool, noise_std: float) -> None:
        super().check(spec, latent, noise_std)
        if self.start == "pinv" and not spec.linear:
            raise RequestError(
                f"solver {self.name} with start=pinv needs a linear operator, {spec.name} is not; allowed: start=zeros"
            )

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        data = Likelihood(measurement, operator, prior)
        mu = self._start(measurement, operator, prior).detach().clone()
        optimiser = torch.optim.Adam([mu], lr=self.lr, betas=(0.9, 0.99))
        for t in prior.schedule.levels(self.num_steps)[:-1]:
            noise = rng.normal(*prior.latent_shape, dtype=mu.dtype)
            if t.alpha == 0:  # pure noise (flow matching) says nothing about mu, with infinite weight
                continue
            x_t = t.alpha * mu + t.sigma * noise
            predicted = noise_in(x_t, prior.denoise(x_t, t), t)
            regulariser = self.lambda_ * t.ratio * (predicted - noise) / mu[0].numel()
            mu.grad = gradient(data.mean_square, mu) / 2 + regulariser
            optimiser.step()
        return prior.decode(mu)

    def _start(self, measurement: Measurement, operator: Operator, prior: Prior) -> Tensor:
        if self.start == "pinv":
            assert isinstance(operator, LinearOperator)
            return prior.encode(operator.pinv(measurement.y, measurement.noise_std**2))
        return measurement.y.new_zeros(len(measurement.y), *prior.latent_shape)

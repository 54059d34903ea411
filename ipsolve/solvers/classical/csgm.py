"""CSGM: the inversion of a generator from several random starts.

Bora, Jalal, Price & Dimakis 2017, "Compressed Sensing using Generative Models" (arXiv 1703.03208):

    min_z ||A(G(z)) - y||^2 + lambda ||z||^2    by Adam from several z ~ N(0, I),

and the answer is G(z) of the lowest objective, which is measurable: no truth is looked at. With lambda = noise_std^2
that is the mode of p(z | y) under N(0, I), and for a linear G the posterior mean.

The paper's generators are a DCGAN and a VAE. Here G is made of the diffusion prior: deterministic DDIM in a few steps
from sqrt(alpha_T^2 + sigma_T^2) z, then the decoder of a latent prior, as in DMPlug, of which this is the regularised
form with restarts and without early stopping. The range of G caps what can be reached.

In the authors' code the misfit is a mean over the m values of y: its lambda is the one here over m. The defaults are
its settings for CelebA, from memory: lambda 0.001, lr 0.1, 500 iterations, 2 restarts (10 on MNIST).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import probability_flow, vp_scale
from ipsolve.solvers.steps.optimise import Objective, adamw
from ipsolve.solvers.steps.particles import clouds


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class CSGM(Solver):
    """CSGM, with the few-step map of a diffusion prior as the generator.

    Args:
        num_steps: DDIM steps of G.
        restarts: random starts. They are fitted at once: memory is theirs.
        iterations: Adam steps of each.
        lr: of Adam.
        lambda_: weight of ||z||^2.
    """

    name: ClassVar[str] = "csgm"
    citation: ClassVar[Citation] = Citation(
        key="bora2017csgm",
        authors="Bora, Ashish and Jalal, Ajil and Price, Eric and Dimakis, Alexandros G.",
        title="Compressed Sensing using Generative Models",
        year=2017,
        venue="ICML",
        arxiv="1703.03208",
    )

    num_steps: Annotated[int, Field(ge=1)] = 3
    timestep_spacing: Spacing | None = None
    restarts: Annotated[int, Field(ge=1)] = 2
    iterations: Annotated[int, Field(ge=1)] = 500
    lr: Annotated[float, Field(gt=0)] = 0.1
    lambda_: Annotated[float, Field(ge=0)] = 1e-3

    def cost(self, traits: Traits) -> Cost:
        renders, fitted = self.restarts * (self.iterations + 1), self.restarts * self.iterations
        calls = Cost(denoiser=renders * self.num_steps, denoiser_backward=fitted * self.num_steps)
        return replace(calls, decoder=renders, decoder_backward=fitted) if "latent" in traits else calls

    def solve(self, problem: Problem) -> Tensor:
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)[:-1]
        batch = torch.arange(problem.batch_size, device=problem.y.device)
        starts = problem.select(batch.repeat_interleave(self.restarts))

        def generate(part: Problem, z: Tensor) -> Tensor:
            return part.prior.decode(probability_flow(part.prior, vp_scale(levels[0]) * z, levels))

        def energy(part: Problem, z: Tensor, x: Tensor) -> Tensor:
            return squared_norm(part.residual(x)) + self.lambda_ * squared_norm(z)

        def objective_of(rows: Tensor) -> Objective:
            part = starts.select(rows)
            return lambda z: energy(part, z, generate(part, z))

        shape = self.restarts, *problem.prior.latent_shape
        z = problem.rng.normal(*shape, dtype=problem.y.dtype).flatten(0, 1)
        z = adamw(objective_of, z, lr=self.lr, max_iterations=self.iterations, threshold=0.0, weight_decay=0.0)
        x = generate(starts, z)
        lowest = energy(starts, z, x).reshape(-1, self.restarts).argmin(1)
        return clouds(x, self.restarts)[batch, lowest]

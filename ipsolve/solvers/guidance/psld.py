"""PSLD: posterior sampling with latent diffusion.

Rout et al. 2023, "Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models"
(arXiv 2307.00619), Algorithm 2:

    z_s = DDIM(z_t) - grad_{z_t} [ omega ||y - A x|| + gamma ||E(A^T y + x - A^T A x) - z_0|| ],   x = D(z_0(z_t))

The second term asks that gluing the measured part into the decoded image leaves the latent where it is.
Departures of the authors' code that are not followed: its ``transpose`` is the identity for blurs and nearest
up-sampling for super-resolution, here A^T is the adjoint; it adds fresh noise to the predicted measurement.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.corrector import corrector, num_corrections
from ipsolve.solvers.steps.guidance import guided_sampling


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PSLD(Solver):
    """PSLD.

    Args:
        measurement_weight: omega (0.1 for the LDM of FFHQ; the authors advise 0.9 for super-resolution).
        gluing_weight: gamma.
        eta: 0 for DDIM, 1 for DDPM steps.
        max_update_rms: limit on the root mean square of one guidance update; null is the published method.
        corrector_steps: steps of MCLC after each step but the last (:mod:`ipsolve.solvers.steps.corrector`); 0 is off.
        corrector_step_size: of them, in units of the variance of the noise at the level.
    """

    name: ClassVar[str] = "psld"
    citation: ClassVar[Citation] = Citation(
        key="rout2023psld",
        authors="Rout, Litu and Raoof, Negin and Daras, Giannis and Caramanis, Constantine and Dimakis, "
        "Alexandros G. and Shakkottai, Sanjay",
        title="Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models",
        year=2023,
        venue="NeurIPS",
        arxiv="2307.00619",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "latent"})

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    measurement_weight: Annotated[float, Field(ge=0)] = 0.1
    gluing_weight: Annotated[float, Field(ge=0)] = 0.1
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_update_rms: Annotated[float, Field(gt=0)] | None = None
    corrector_steps: Annotated[int, Field(ge=0)] = 0
    corrector_step_size: Annotated[float, Field(gt=0)] = 0.01

    def cost(self, traits: Traits) -> Cost:
        calls = self.num_steps + num_corrections(self.num_steps, self.corrector_steps)
        return Cost(
            denoiser=calls,
            denoiser_backward=calls,
            decoder=calls + 1,
            decoder_backward=calls,
            encoder=self.num_steps,
        )

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)

        def objective(z_0: Tensor) -> Tensor:
            x = prior.decode(z_0)
            residual = problem.residual(x)
            glued = x - operator.adjoint(residual)
            return self.measurement_weight * norm(residual) + self.gluing_weight * norm(prior.encode(glued) - z_0)

        z = guided_sampling(
            problem,
            objective,
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            max_update_rms=self.max_update_rms,
            project=corrector(problem, levels, steps=self.corrector_steps, step_size=self.corrector_step_size),
        )
        return prior.decode(z)

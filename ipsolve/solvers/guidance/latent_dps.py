"""Latent DPS: diffusion posterior sampling with the gradient taken through denoiser and decoder.

Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems" (arXiv 2209.14687), Algorithm 1,
in the latent space of a latent diffusion model as in Rout et al. 2023 (arXiv 2307.00619), eq. 6, and Kuang 2026, eq.
13-14:

    z_s = DDIM(z_t) - guidance_scale * grad_{z_t} ||y - A(D(z_0(z_t)))||

With a pixel prior (D the identity) it is DPS itself, which ``dps`` offers with the paper's DDPM steps and presets. The
norm is not squared, as in the code of DPS.

MCLC corrects the states of this method, of PSLD and of ReSample: :mod:`ipsolve.solvers.steps.corrector`, off at first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.steps.corrector import corrector, num_corrections
from ipsolve.solvers.steps.guidance import guided_sampling


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class LatentDPS(Solver):
    """Latent DPS.

    Args:
        guidance_scale: zeta.
        eta: 0 for DDIM, 1 for DDPM steps.
        max_update_rms: limit on the root mean square of one guidance update. Null is the published method; with a
            strongly non-linear decoder its first steps can throw the state out of the decoder's range.
        corrector_steps: steps of MCLC after each step but the last (:mod:`ipsolve.solvers.steps.corrector`); 0 is off.
        corrector_step_size: of them, in units of the variance of the noise at the level.
    """

    name: ClassVar[str] = "latent_dps"
    citation: ClassVar[Citation] = DPS.citation  # its latent form: Rout et al. 2023

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    guidance_scale: Annotated[float, Field(ge=0)] = 0.5
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_update_rms: Annotated[float, Field(gt=0)] | None = None
    corrector_steps: Annotated[int, Field(ge=0)] = 0
    corrector_step_size: Annotated[float, Field(gt=0)] = 0.01

    def cost(self, traits: Traits) -> Cost:
        calls = self.num_steps + num_corrections(self.num_steps, self.corrector_steps)
        if "latent" not in traits:
            return Cost(denoiser=calls, denoiser_backward=calls)
        return Cost(denoiser=calls, denoiser_backward=calls, decoder=calls + 1, decoder_backward=calls)

    def solve(self, problem: Problem) -> Tensor:
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = guided_sampling(
            problem,
            lambda z_0: self.guidance_scale * problem.distance(z_0),
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            max_update_rms=self.max_update_rms,
            project=corrector(problem, levels, steps=self.corrector_steps, step_size=self.corrector_step_size),
        )
        return problem.prior.decode(z)

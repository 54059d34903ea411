"""MCG: manifold constrained gradients, a step of DPS followed by a projection onto the measurement.

Chung et al. 2022, "Improving Diffusion Models for Inverse Problems using Manifold Constraints" (arXiv 2206.00941):

    x'  = DDPM(x_t) - zeta grad_{x_t} ||y - A x_0(x_t)||
    x_s = (I - A^+ A) x' + A^+ y_s,        y_s = alpha_s y + sigma_s A z,  z ~ N(0, I)

It is made for noiseless measurements: the projection replaces what A sees of the image by A^+ y, noise included, and
amplified where singular values are small. Noisy tasks are not refused, so that this can be measured.

A^+ is A^T for operators with orthonormal rows, the case of the paper. Its weight W is the identity here, as for its
inpainting and colourisation. The norm is not squared, as in the authors' code. The code projects onto y at the noise of
level t where the state is already at s (``measurement_level``). A departure of it that is not followed: norms over the
batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import replace_measured
from ipsolve.solvers.steps.guidance import guided_sampling


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MCG(Solver):
    """MCG.

    Args:
        zeta: step size of the gradient (alpha in the paper). Only its part in the null space of A outlives the
            projection.
        eta: 1 for the DDPM steps of the paper, 0 for DDIM.
        measurement_level: the noise of y_s: that of the ``next`` level s, or of the ``current`` one, t, as in the
            authors' code.
        clip_denoised: clip x_0 to [-1, 1] as the authors' code does; for priors of images.
    """

    name: ClassVar[str] = "mcg"
    citation: ClassVar[Citation] = Citation(
        key="chung2022mcg",
        authors="Chung, Hyungjin and Sim, Byeongsu and Ryu, Dohoon and Ye, Jong Chul",
        title="Improving Diffusion Models for Inverse Problems using Manifold Constraints",
        year=2022,
        venue="NeurIPS",
        arxiv="2206.00941",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    zeta: Annotated[float, Field(ge=0)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    measurement_level: Literal["next", "current"] = "next"
    clip_denoised: bool = False

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps, denoiser_backward=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        operator = problem.linear_operator
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        level_of = {s: t if self.measurement_level == "current" else s for t, s in pairwise(levels)}

        def project(x: Tensor, s: Level) -> Tensor:
            return replace_measured(operator, problem, x, level_of[s], problem.noise())

        return guided_sampling(
            problem,
            lambda x_0: self.zeta * problem.distance(x_0),
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            clip_denoised=self.clip_denoised,
            project=project,
        )

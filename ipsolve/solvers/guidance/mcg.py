"""MCG: manifold constrained gradients, a step of DPS followed by a projection onto the measurement.

Chung et al. 2022, "Improving Diffusion Models for Inverse Problems using Manifold Constraints" (arXiv 2206.00941):

    x'  = DDPM(x_t) - zeta grad_{x_t} ||y - A x_0(x_t)||
    x_s = (I - A^+ A) x' + A^+ y_s,        y_s = alpha_s y + sigma_s A z,  z ~ N(0, I)

It is made for noiseless measurements: the projection replaces what A sees of the image by A^+ y, noise included, and
amplified where singular values are small. Noisy tasks are not refused, so that this can be measured.

A^+ is A^T for operators with orthonormal rows, the case of the paper. Its weight W is the identity here, as for its
inpainting and colourisation. The norm is not squared, as in the authors' code. Departures of that code that are not
followed: it projects onto y at the noise of level t where the state is already at s, and takes norms over the batch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import LinearOperator, Operator
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import SOLVERS, Requirements, Solver
from ipsolve.solvers.steps.diffusion import replace_measured
from ipsolve.solvers.steps.guidance import guided_sampling
from ipsolve.solvers.steps.likelihood import Likelihood


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MCG(Solver):
    """MCG.

    Args:
        zeta: step size of the gradient (alpha in the paper). Only its part in the null space of A outlives the
            projection.
        eta: 1 for the DDPM steps of the paper, 0 for DDIM.
        clip_denoised: clip x_0 to [-1, 1] as the authors' code does; for priors of images.
    """

    name: ClassVar[str] = "mcg"
    paper: ClassVar[str] = "Chung et al. 2022 (2206.00941)"
    family: ClassVar[str] = "guidance"
    requires: ClassVar[Requirements] = Requirements(linear=True, latent=False)

    num_steps: Annotated[int, Field(ge=1)] = 1000
    zeta: Annotated[float, Field(ge=0)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    clip_denoised: bool = False

    def cost(self) -> str:
        return f"{self.num_steps} denoiser calls, each with a backward call"

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        assert isinstance(operator, LinearOperator)
        data = Likelihood(measurement, operator, prior)

        def project(x: Tensor, s: Level) -> Tensor:
            z = rng.normal(*prior.image_shape, dtype=x.dtype)
            return replace_measured(operator, measurement, x, s, z)

        return guided_sampling(
            prior,
            rng,
            lambda x_0: self.zeta * data.distance(x_0),
            num_steps=self.num_steps,
            eta=self.eta,
            clip_denoised=self.clip_denoised,
            project=project,
            dtype=measurement.y.dtype,
        )

"""SMCDiff: the replacement method with particles that are chosen by how well they foresee the replaced values.

Trippe, Yim, Tischer, Baker, Broderick, Barzilay & Jaakkola 2023, "Diffusion Probabilistic Modeling of Protein Backbones
in 3D for the Motif-Scaffolding Problem" (arXiv 2206.04119), Algorithm 2. The measured part is diffused once to
y_T .. y_0; every step

    w       = p(y_s | x_t)            with p(x_s | x_t) the model's DDPM step,
    x_t     is resampled by w,
    x_s     ~ p(x_s | x_t), its measured part replaced by y_s.

Here the measured part is the coordinates V^T x of A = U diag(s) V^T with s_i > 0, so that the method serves every
operator with a known SVD, and A x_hat = y without noise.

The method is for noiseless measurements. With noise, coordinate i of y, divided by s_i, is what a state of noise level
sigma_t / alpha_t = sigma_y / s_i would be: its diffusion starts there, and at cleaner levels it is free. This is the
idea of MCGDiff and no part of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import SpectralOperator
from ipsolve.priors.schedules import Level
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import SOLVERS, Requirements
from ipsolve.solvers.steps.diffusion import transition_variance
from ipsolve.solvers.steps.filtering import FilteringSolver, Observation, diffused_measurement
from ipsolve.solvers.steps.spectral import inverse_singular_values


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class SMCDiff(FilteringSolver):
    """SMCDiff.

    Args:
        num_particles: P, for each image.
        eta: of the model's DDIM step and of the path of y; 1 is DDPM, the paper's.
    """

    name: ClassVar[str] = "smcdiff"
    paper: ClassVar[str] = "Trippe et al. 2023 (2206.04119)"
    family: ClassVar[str] = "monte carlo"
    requires: ClassVar[Requirements] = Requirements(linear=True, spectral=True, latent=False)

    num_steps: Annotated[int, Field(ge=1)] = 100
    num_particles: Annotated[int, Field(ge=1)] = 64
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0

    def cost(self) -> str:
        return f"{self.num_steps * self.num_particles} denoiser calls ({self.num_particles} particles)"

    def observations(
        self, measurement: Measurement, operator: SpectralOperator, levels: list[Level], rng: ImageRng
    ) -> Iterator[Observation]:
        inverse = inverse_singular_values(operator)
        z_0 = inverse * operator.measurement_to_spectral(measurement.y)

        def added(t: Level) -> Tensor:
            """Return the variance of z_t beyond the noise that z_0 itself carries; negative below its noise level."""
            return torch.where(inverse > 0, t.sigma**2 - (t.alpha * measurement.noise_std * inverse) ** 2, -1.0)

        def std(t: Level) -> Tensor:
            # never 0: coordinates below their noise level are divided by it too, though nothing reads them
            return added(t).clamp_min(torch.finfo(inverse.dtype).tiny).sqrt()

        def noise() -> Tensor:
            return operator.to_spectral(rng.normal(*operator.image_shape, dtype=inverse.dtype))

        def observation(z: Tensor, t: Level) -> Observation:
            return Observation(z, torch.zeros_like(inverse), added(t) >= 0)

        z = levels[0].alpha * z_0 + std(levels[0]) * noise()
        yield observation(z, levels[0])
        for t, s in pairwise(levels):
            share = (self.eta**2 * transition_variance(t, s) / std(t) ** 2).clamp(max=1)
            z = diffused_measurement(z_0, z, t, s, std_t=std(t), std_s=std(s), share=share, noise=noise())
            yield observation(z, s)

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

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.randomness import ImageRng
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS
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
    citation: ClassVar[Citation] = Citation(
        key="trippe2023smcdiff",
        authors="Trippe, Brian L. and Yim, Jason and Tischer, Doug and Baker, David and Broderick, Tamara and "
        "Barzilay, Regina and Jaakkola, Tommi",
        title="Diffusion Probabilistic Modeling of Protein Backbones in 3D for the Motif-Scaffolding Problem",
        year=2023,
        venue="ICLR",
        arxiv="2206.04119",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "spectral", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 64
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0

    def observations(self, problem: Problem, levels: list[Level], rng: ImageRng) -> Iterator[Observation]:
        operator = problem.spectral_operator
        inverse = inverse_singular_values(operator)
        z_0 = inverse * operator.measurement_to_spectral(problem.y)
        std_0 = per_image(problem.noise_std, z_0) * inverse  # of the noise of z_0

        def added(t: Level) -> Tensor:
            """Return the variance of z_t beyond the noise that z_0 itself carries; negative below its noise level."""
            return torch.where(inverse > 0, t.sigma**2 - (t.alpha * std_0) ** 2, -1.0)

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

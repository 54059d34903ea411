"""FPS: posterior sampling as filtering, with a diffused measurement observed at every step.

Dou & Song 2024, "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective" (ICLR).
A path of measurements y_T .. y_0 = y is drawn once per image by backward DDIM, y_t = alpha_t y + sigma_t A n_t, which
observes the states by p(y_t | x_t) = N(A x_t, alpha_t^2 sigma_y^2 I). Every step, with DDIM's
p(x_s | x_t) = N(mean, v I),

    w   = p(y_s | x_t) = N(y_s; A mean, v A A^T + alpha_s^2 sigma_y^2 I),
    x_t is resampled by w,
    x_s ~ p(x_s | x_t, y_s), in closed form through the SVD of A.

One particle is FPS, more are FPS-SMC.

Without noise and with the path of the model's own steps (c_rate null, eta 1) the particles approach the posterior.
With noise the filter takes the noise of every y_t for new, though it is that of y each time: the posterior it
approaches counts y more than once and is too narrow.

Departures of the authors' code: weights are those of the parents, taken before the step, which equal in law the code's
after it and keep more distinct particles; resampling is systematic, not multinomial; the last step is conditioned on y
too, so that A x_hat = y without noise; y_T is drawn with its mean alpha_T y, which the code leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

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
class FPS(FilteringSolver):
    """FPS and FPS-SMC.

    Args:
        num_particles: M, for each image.
        eta: of the model's DDIM step; 1 is DDPM.
        c_rate: share of the variance of each y_t that is fresh. Null takes the share that the model's own step has.
    """

    name: ClassVar[str] = "fps"
    citation: ClassVar[Citation] = Citation(
        key="dou2024fps",
        authors="Dou, Zehao and Song, Yang",
        title="Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective",
        year=2024,
        venue="ICLR",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "spectral", "pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {"num_steps": 1000, "num_particles": 5, "c_rate": 0.95, "eta": 1.0},
    }

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 5
    c_rate: Annotated[float, Field(ge=0, le=1)] | None = 0.95
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0

    def observations(self, problem: Problem, levels: list[Level], rng: ImageRng) -> Iterator[Observation]:
        operator = problem.spectral_operator
        inverse = inverse_singular_values(operator)
        z_0 = inverse * operator.measurement_to_spectral(problem.y)
        std_0 = per_image(problem.noise_std, z_0) * inverse  # of the noise of z_0

        def noise() -> Tensor:
            return operator.to_spectral(rng.normal(*operator.image_shape, dtype=inverse.dtype))

        def observation(z: Tensor, t: Level) -> Observation:
            return Observation(z, (t.alpha * std_0) ** 2, inverse > 0)

        z = levels[0].alpha * z_0 + levels[0].sigma * noise()
        yield observation(z, levels[0])
        for t, s in pairwise(levels):
            std_t, std_s = inverse.new_tensor(t.sigma), inverse.new_tensor(s.sigma)
            share = self.eta**2 * transition_variance(t, s) / t.sigma**2 if self.c_rate is None else self.c_rate
            z = diffused_measurement(
                z_0, z, t, s, std_t=std_t, std_s=std_s, share=inverse.new_tensor(share), noise=noise()
            )
            yield observation(z, s)

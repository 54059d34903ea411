"""DPS: diffusion posterior sampling.

Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems" (arXiv 2209.14687), Algorithm 1:

    x_s = DDPM(x_t) - zeta_t grad_{x_t} ||y - A(x_0(x_t))||^2,    zeta_t = zeta / ||y - A(x_0(x_t))||

grad ||r||^2 / ||r|| is 2 grad ||r||; the authors' code steps by zeta grad ||r||, half of it. Both are here (``norm``).
For Poisson noise the code divides ||r|| by |y| and takes the mean, which is ||r|| times the mean of 1 / |y| with y in
[-1, 1]: largest for mid-grey, and not the paper's weights, one over the counts.
The step is a heuristic: on a Gaussian prior its samples are not those of the posterior, and its size is not tied to
sigma_y. It is made for variance preserving states; on other schedules the same step is taken in their units.

The authors' code samples with the variance that its network has learned (Nichol & Dhariwal 2021, arXiv 2102.09672, eq.
15): ``variance: learned``, for priors that have learned one. ``fixed``, also in the presets because most priors have
not, is the variance of q(x_s | x_t, x_0), DDPM's.

A departure of the authors' code that is not followed: norms over the whole batch. It also clips every x_0 to [-1, 1],
the range of images. That is off by default, since a prior need not live there (the means of the mixtures reach 16), and
on in the presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.base import require
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.guidance import Variance, guided_sampling


def _official(zeta: float) -> dict[str, Any]:
    grid = {"num_steps": 1000, "timestep_spacing": "linspace", "clip_denoised": True}
    return {**grid, "zeta": zeta, "norm": "unsquared", "eta": 1.0, "variance": "fixed"}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DPS(Solver):
    """DPS with a pixel prior and any differentiable operator. Presets are the settings of the authors' code by task.

    Args:
        zeta: step size.
        norm: ``unsquared`` steps by zeta grad ||r|| as in the code, ``squared`` by zeta grad ||r||^2 / ||r|| as in
            the paper; ``poisson`` by zeta mean(1 / |y|) grad ||r||, the code's rule for shot noise. |y| counts as
            1/255 at least, the smallest that 8-bit images have.
        eta: 1 for the DDPM steps of the paper, 0 for DDIM.
        clip_denoised: clip x_0 to [-1, 1]; for priors of images.
        variance: of the noise of a step with eta 1: ``fixed``, DDPM's, or ``learned``, what the network of the prior
            says of each pixel, as in the code.
    """

    name: ClassVar[str] = "dps"
    citation: ClassVar[Citation] = Citation(
        key="chung2023dps",
        authors="Chung, Hyungjin and Kim, Jeongsol and McCann, Michael T. and Klasky, Marc L. and Ye, Jong Chul",
        title="Diffusion Posterior Sampling for General Noisy Inverse Problems",
        year=2023,
        venue="ICLR",
        arxiv="2209.14687",
    )
    requires: ClassVar[Traits] = frozenset({"pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "super_resolution": _official(0.3),
        "gaussian_blur": _official(0.3),
        "motion_blur": _official(0.3),
        "random_inpainting": _official(0.5),
        "phase_retrieval": _official(1.0),
    }

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    zeta: Annotated[float, Field(ge=0)] = 0.3
    norm: Literal["unsquared", "squared", "poisson"] = "unsquared"
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    clip_denoised: bool = False
    variance: Variance = "fixed"

    def __post_init__(self) -> None:
        require(
            self.variance == "fixed" or self.eta == 1, f"variance: learned is of steps with eta 1 (got {self.eta:g})"
        )

    def needs(self) -> Traits:
        return super().needs() | (frozenset({"learned_variance"}) if self.variance == "learned" else frozenset())

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps, denoiser_backward=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        step = self._step(problem)
        return guided_sampling(
            problem,
            lambda x_0: step * problem.distance(x_0),
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            clip_denoised=self.clip_denoised,
            variance=self.variance,
        )

    def _step(self, problem: Problem) -> float | Tensor:
        """Return what multiplies grad ||r||, one number or one per image, (B,)."""
        if self.norm != "poisson":
            return self.zeta if self.norm == "unsquared" else 2 * self.zeta
        support = problem.known_operator.support()
        inverse = problem.y.abs().clamp_min(1 / 255).reciprocal()
        inverse = inverse if support is None else inverse * support
        return self.zeta * inverse.flatten(1).sum(1) / problem.known_operator.num_measurements(len(inverse)).to(inverse)

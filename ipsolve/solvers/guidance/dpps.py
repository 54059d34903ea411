"""DPPS: DPS with noise that is chosen among candidates, not drawn.

Wu et al. 2024, "Diffusion Posterior Proximal Sampling for Image Restoration" (arXiv 2402.16907). With the noise eps
found in x_t, and mean and std those of DDPM:

    x'  = mean(x_t) - zeta grad_{x_t} ||y - A x_0(x_t)||
    n   = argmin over candidates n_i ~ N(0, I), i = 1 .. N_t, of ||alpha_s y - A(x' + std n_i - sigma_s eps)||
    x_s = x' + std n,       N_t = floor(max(N (1 - exp(-SNR_t)), 2)),   SNR_t = alpha_t^2 / sigma_t^2

Sampling starts from alpha_T up(y) + sigma_T n, up(y) being y at the size of the image. The choice narrows the noise
towards what fits y: the method does not sample the posterior, and one candidate from noise alone is DPS itself.

The comparison of alpha_s y with A of a noisy state takes a linear A; the authors' code makes it for any. Its candidates
are chosen for the whole batch at once, here for each image. Not followed: the learned variance of its network. With
``clip_denoised`` eps is that of the clipped estimate here, the network's own in the code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import initial_state, posterior_std
from ipsolve.solvers.steps.guidance import guided_sampling
from ipsolve.solvers.steps.starts import measurement_as_image


def _official(zeta: float) -> dict[str, Any]:
    return {"num_steps": 1000, "timestep_spacing": "linspace", "clip_denoised": True, "zeta": zeta}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DPPS(Solver):
    """DPPS. Presets are the settings of the authors' code by task.

    Args:
        zeta: step size of the gradient.
        num_candidates: N, the most that are drawn; 1 leaves no choice.
        eta: 1 for the DDPM steps of the paper; their noise is what is chosen, so 0 would leave nothing.
        start: ``measurement``, the aligned initialisation above, or ``noise``.
        clip_denoised: clip x_0 to [-1, 1] as the authors' code does; for priors of images.
    """

    name: ClassVar[str] = "dpps"
    citation: ClassVar[Citation] = Citation(
        key="wu2024dpps",
        authors="Wu, Hongjie and others",
        title="Diffusion Posterior Proximal Sampling for Image Restoration",
        year=2024,
        venue="ACM Multimedia",
        arxiv="2402.16907",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "super_resolution": _official(1.0),
        "gaussian_blur": _official(0.4),
        "motion_blur": _official(0.4),
        "random_inpainting": _official(1.0),
    }

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    zeta: Annotated[float, Field(ge=0)] = 1.0
    num_candidates: Annotated[int, Field(ge=1)] = 50
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    start: Literal["measurement", "noise"] = "measurement"
    clip_denoised: bool = False

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps, denoiser_backward=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        def first(t: Level) -> Tensor:
            x = initial_state(problem, t)
            aligned = self.start == "measurement"
            return x + t.alpha * measurement_as_image(problem, problem.linear_operator) if aligned else x

        def choose(mean: Tensor, eps: Tensor, t: Level, s: Level) -> Tensor:
            return self._chosen(problem, mean, eps, t, s)

        return guided_sampling(
            problem,
            lambda x_0: self.zeta * problem.distance(x_0),
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            clip_denoised=self.clip_denoised,
            start=first,
            choose=choose,
        )

    def _candidates(self, t: Level) -> int:
        """Return N_t."""
        signal_to_noise = math.inf if t.sigma == 0 else (t.alpha / t.sigma) ** 2
        growing = math.floor(self.num_candidates * (1 - math.exp(-signal_to_noise)))
        return min(max(growing, 2), self.num_candidates)

    def _chosen(self, problem: Problem, mean: Tensor, eps: Tensor, t: Level, s: Level) -> Tensor:
        """Return the noise of the candidate that fits best, the shape of ``mean``."""
        std = self.eta * posterior_std(t, s)
        best = problem.noise()
        if std == 0:  # nothing to choose from
            return best
        aimed = replace(problem, y=s.alpha * problem.y)
        without = mean - s.sigma * eps
        smallest = norm(aimed.residual(without + std * best))
        # one candidate at a time: all of them at once would be 50 images for each
        for _ in range(self._candidates(t) - 1):
            noise = problem.noise()
            distance = norm(aimed.residual(without + std * noise))
            best = torch.where(per_image(distance < smallest, best), noise, best)  # type: ignore[arg-type]
            smallest = torch.minimum(distance, smallest)
        return best

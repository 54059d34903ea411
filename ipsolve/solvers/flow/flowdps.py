"""FlowDPS: the clean end of a flow is moved towards the data, its noisy end is partly drawn anew.

Kim, Kim & Ye 2025, "FlowDPS: Flow-Driven Posterior Sampling for Inverse Problems" (arXiv 2503.08136), Algorithm 1. With
the velocity v at z_t = (1 - t) z_0 + t z_1, from t to s:

    z_0 = z_t - t v,    z_1 = z_t + (1 - t) v                  the two ends, Tweedie's formula of a flow
    z*  = K times z* - step_size grad ||r(z*)||, from z_0      r = y - A(D(z*)), or A^T r, or A^+ r
    z_0' = (1 - t) z_0 + t z*
    z_s = (1 - s) z_0' + s (sqrt(s) z_1 + sqrt(1 - s) n)

No gradient passes through the denoiser. Without data steps and fresh noise it is Euler's method. A prior of
another kind is seen as a flow, exactly (:func:`ipsolve.priors.coordinates.as_flow`), on its own levels.

Norm and blending are those of the authors' code (8361843), which takes A^+ r for super-resolution and A^T r for
everything else. Its guidance by a text is the prior's affair here, and its shift of times the schedule's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm
from ipsolve.priors.coordinates import as_flow
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import gradient, initial_state, noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FlowDPS(Solver):
    """FlowDPS. Presets are the two forms of the authors' code.

    Args:
        data_steps: K.
        step_size: length of one data step where A and D are isometries: the norm is not squared. It is made for latents
            of 16 x 96 x 96 entries; in n entries, what is as far is sqrt(n / 147456) of it.
        residual: what is made small: ``measurement``, r itself; ``adjoint``, A^T r; ``pinv``, A^+ r.
        fresh_noise: draw part of the noise anew; false goes on with z_1 alone.
    """

    name: ClassVar[str] = "flowdps"
    citation: ClassVar[Citation] = Citation(
        key="kim2025flowdps",
        authors="Kim, Jeongsol and Kim, Bryan Sangwoo and Ye, Jong Chul",
        title="FlowDPS: Flow-Driven Posterior Sampling for Inverse Problems",
        year=2025,
        venue="ICCV",
        arxiv="2503.08136",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {"residual": "adjoint"},
        "official_super_resolution": {"residual": "pinv"},
    }

    num_steps: Annotated[int, Field(ge=1)] = 28
    timestep_spacing: Spacing | None = None
    data_steps: Annotated[int, Field(ge=0)] = 3
    step_size: Annotated[float, Field(ge=0)] = 15.0
    residual: Literal["measurement", "adjoint", "pinv"] = "measurement"
    fresh_noise: bool = True

    def needs(self) -> Traits:
        return super().needs() | (set() if self.residual == "measurement" else {"linear"})

    def cost(self, traits: Traits) -> Cost:
        if "latent" not in traits:
            return Cost(denoiser=self.num_steps)
        fitted = self.num_steps * self.data_steps
        return Cost(denoiser=self.num_steps, decoder=fitted + 1, decoder_backward=fitted)

    def solve(self, problem: Problem) -> Tensor:
        prior = as_flow(problem.prior)
        problem = replace(problem, prior=prior)
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            z_0 = prior.denoise(z, t)
            z_1 = noise_in(z, z_0, t)
            z_0 = torch.lerp(z_0, self._nearer(problem, z_0), t.sigma)
            if self.fresh_noise:
                z_1 = math.sqrt(s.sigma) * z_1 + math.sqrt(s.alpha) * problem.noise()
            z = s.alpha * z_0 + s.sigma * z_1
        return prior.decode(z / levels[-1].alpha)  # a schedule may end before the clean image

    def _nearer(self, problem: Problem, z_0: Tensor) -> Tensor:
        """Return z* after K steps down the distance from the data."""
        for _ in range(self.data_steps):
            z_0 = z_0 - self.step_size * gradient(lambda z: self._distance(problem, z), z_0)
        return z_0

    def _distance(self, problem: Problem, z: Tensor) -> Tensor:
        """Return ||r||, ||A^T r|| or ||A^+ r|| of states, (B,)."""
        r = problem.residual(problem.prior.decode(z))
        if self.residual == "adjoint":
            r = problem.linear_operator.adjoint(r)
        elif self.residual == "pinv":
            r = problem.linear_operator.pinv(r)
        return norm(r)

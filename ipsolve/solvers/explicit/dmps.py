"""DMPS: the likelihood of a noisy state under an uninformative prior.

Meng & Kabashima 2022, "Diffusion Model Based Posterior Sampling for Noisy Linear Inverse Problems" (arXiv 2211.12343).
If p(x_0) is flat, x_0 given x_t is N(x_t / alpha_t, r_t^2 I) with r_t = sigma_t / alpha_t, and

    g   = grad_{x_t} log p(y | x_t) = A^T (sigma_y^2 I + r_t^2 A A^T)^-1 (y - A x_t / alpha_t) / alpha_t
    x_s = DDPM(x_t) + lambda (1 - a) / sqrt(a) g,        a = ab_t / ab_s

(1 - a) / sqrt(a) is the weight that the ancestral step gives a score; on any schedule it is alpha_s / alpha_t times the
variance of q(x_t | x_s). The paper inverts by an SVD; any linear operator that can solve (A A^T + w I) v = u serves.
lambda > 1 over-corrects, which takes many small steps.

The authors' code evaluates g, with the constants of level t, at the state that the ancestral step has already reached
(``score_at``).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.base import LinearOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped, ddim_step, initial_state, noise_in, transition_variance


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DMPS(Solver):
    """DMPS. The preset ``official`` is the setting of the authors' code.

    Args:
        guidance_scale: lambda; 1 is the score as derived, the paper uses 1.75 for every task.
        score_at: the state of which g is the score: x_t, the ``current`` one, or the ``next``, as in the authors' code.
        clip_denoised: clip x_0 to [-1, 1] as the authors' code does; for priors of images.
    """

    name: ClassVar[str] = "dmps"
    citation: ClassVar[Citation] = Citation(
        key="meng2022dmps",
        authors="Meng, Xiangming and Kabashima, Yoshiyuki",
        title="Diffusion Model Based Posterior Sampling for Noisy Linear Inverse Problems",
        year=2022,
        arxiv="2211.12343",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {"num_steps": 1000, "guidance_scale": 1.75, "score_at": "next", "clip_denoised": True},
    }

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    guidance_scale: Annotated[float, Field(ge=0)] = 1.75
    score_at: Literal["current", "next"] = "current"
    clip_denoised: bool = False

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            x_0 = clipped(prior.denoise(x, t), self.clip_denoised)
            noise = problem.noise()
            x_s = ddim_step(x_0, noise_in(x, x_0, t), t, s, eta=1.0, noise=noise)
            if t.alpha > 0:  # y says nothing about pure noise
                weight = self.guidance_scale * s.alpha / t.alpha * transition_variance(t, s)
                at = x if self.score_at == "current" else x_s
                x_s = x_s + weight * _likelihood_score(operator, problem, at, t)
            x = x_s
        return x


def _likelihood_score(operator: LinearOperator, problem: Problem, x: Tensor, t: Level) -> Tensor:
    """Return g, the shape of ``x``; (sigma_y^2 I + r^2 A A^T)^-1 is written as r^-2 (A A^T + (sigma_y / r)^2 I)^-1."""
    damping = (problem.noise_std / t.ratio) ** 2
    return operator.pinv(t.alpha * problem.y - operator.forward(x), damping) / t.sigma**2

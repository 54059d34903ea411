"""SNIPS: annealed Langevin dynamics in the singular directions of A, the noise of y being part of the annealed noise.

Kawar, Vaksman & Elad 2021, "SNIPS: Solving Noisy Inverse Problems Stochastically" (arXiv 2105.14951). In
variance-exploding terms z = x_t / alpha_t = x_0 + r n, r = sigma_t / alpha_t, several times at every level. With
z_i = (V^T z)_i, y_i = (U^T y)_i and the score of z by Tweedie's formula, (E[x_0 | x_t] - z) / r^2,

    z_i <- z_i + a_i g_i + sqrt(2 a_i) n_i,

    r s_i > sigma_y:      g_i = s_i (y_i - s_i z_i) / (s_i^2 r^2 - sigma_y^2)
                          a_i = c (r^2 - sigma_y^2 / s_i^2)
    0 < r s_i < sigma_y:  g_i = s_i (y_i - s_i z_i) / (sigma_y^2 - s_i^2 r^2) + score_i
                          a_i = c r^2 (1 - s_i^2 r^2 / sigma_y^2)
    s_i = 0:              g_i = score_i,  a_i = c r^2

The denominators cancel: with q_i = r s_i / sigma_y, which is 0 where A does not see, all three are

    a_i g_i = c min(q_i^2, 1) (y_i / s_i - z_i) + a_i score_i [q_i < 1],    a_i = c r^2 (1 - min(q_i^2, 1 / q_i^2)),

which is what is computed: nothing is divided by 0 at q_i = 1, and no direction is picked by an index. Dynamics are
stable for c < 2; annealed slowly they sample p(x_0 | y).

Faults of the authors' code that are not followed: where no singular value is 0 its slice [-0:] gives every direction
the third row, and y is ignored; at q_i = 1 a direction gets noise without any drift. It also sets singular values below
1e-3 to 0, where here only those below the operator's ``rank_tolerance`` are, and starts from U(0, 1), which is
N(0, r^2 I) here and forgotten in either case. Its images are in [0, 1]: levels and noise are half of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.operators.base import SpectralOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.annealing import RatioRange, annealing_levels, require_one_grid
from ipsolve.solvers.steps.diffusion import langevin_step
from ipsolve.solvers.steps.spectral import inverse_singular_values, set_coordinates


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class SNIPS(Solver):
    """SNIPS. The preset ``official`` is the setting of the authors' code for CelebA at 64 x 64, in our units.

    The authors report mean and spread of 8 samples of an image: ``samples: 8`` of the request.

    Args:
        num_steps: noise levels, those of the prior's schedule unless there is a ``ratio_range``.
        ratio_range: r_t of the first level and of the last, geometric between them, clipped to what the prior knows.
        langevin_steps: tau, steps per level.
        step_size: c, which is step_lr / r_L^2 in the code.
        denoise: end on E[x_0 | x_t] of the last level. Without, as published (the code has the flag and does not read
            it), the noise of the last level stays in the image.
    """

    name: ClassVar[str] = "snips"
    citation: ClassVar[Citation] = Citation(
        key="kawar2021snips",
        authors="Kawar, Bahjat and Vaksman, Gregory and Elad, Michael",
        title="SNIPS: Solving Noisy Inverse Problems Stochastically",
        year=2021,
        venue="NeurIPS",
        arxiv="2105.14951",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "spectral", "noisy", "pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {"num_steps": 500, "ratio_range": (180.0, 0.02), "langevin_steps": 5, "step_size": 0.033},
    }

    num_steps: Annotated[int, Field(ge=2)] = 500
    timestep_spacing: Spacing | None = None
    ratio_range: RatioRange | None = None
    langevin_steps: Annotated[int, Field(ge=1)] = 5
    step_size: Annotated[float, Field(gt=0, lt=2)] = 0.033
    denoise: bool = False

    def __post_init__(self) -> None:
        require_one_grid(self.ratio_range, self.timestep_spacing)

    def cost(self, traits: Traits) -> Cost:
        # a level of pure noise, of which a schedule has at most one, is left out
        return Cost(denoiser=self.num_steps * self.langevin_steps + self.denoise, up_to=frozenset({"denoiser"}))

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.spectral_operator, problem.prior
        levels = annealing_levels(prior.schedule, self.num_steps, self.timestep_spacing, self.ratio_range)
        z = levels[0].ratio * problem.noise()
        for t in levels:
            for _ in range(self.langevin_steps):
                score = (prior.denoise(t.alpha * z, t) - z) / t.ratio**2
                z = self._step(operator, problem, z, score, t, problem.noise())
        return prior.denoise(levels[-1].alpha * z, levels[-1]) if self.denoise else z

    def _step(
        self, operator: SpectralOperator, problem: Problem, z: Tensor, score: Tensor, t: Level, noise: Tensor
    ) -> Tensor:
        """Return z after one step at level t, from the score at z and ``noise`` ~ N(0, I)."""
        y = operator.measurement_to_spectral(problem.y)
        inverse = inverse_singular_values(operator)
        seen = inverse > 0
        q = (t.ratio * operator.singular_values() / per_image(problem.noise_std, y)).square().where(seen, 0.0)
        step = self.step_size * t.ratio**2 * (1 - torch.minimum(q, q.where(seen, 1.0).reciprocal()).where(seen, 0.0))
        c = operator.to_spectral(z)
        drift = self.step_size * q.clamp_max(1.0) * (inverse * y - c)
        drift = drift + step * (q < 1) * operator.to_spectral(score)
        moved = c + drift + (2 * step).sqrt() * operator.to_spectral(noise)
        # what V does not span is a direction that A does not see
        return set_coordinates(operator, langevin_step(z, score, self.step_size * t.ratio**2, noise), moved)

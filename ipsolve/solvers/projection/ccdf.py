"""CCDF, come-closer-diffuse-faster: Score-SDE or ILVR entered late, from a noised first reconstruction.

Chung, Sim & Ye 2022, "Come-Closer-Diffuse-Faster: Accelerating Conditional Diffusion Models for Inverse Problems
through Stochastic Contraction" (arXiv 2112.05146). With a reconstruction x~_0 of y and N' = t_0 N of N steps,

    x_{N'} = alpha_{N'} x~_0 + sigma_{N'} z,

and the last N' steps are those of the parent method: a reverse step, then the measured part of the state replaced,
x_s <- x' + A^+ (y_s - A x'), a map that does not expand. The distance of two runs with the same noise therefore falls
step by step: a start that is near enough makes up for the steps that are left out.

All else is the parent: ``corrector_steps`` 0, the default, is ILVR's loop, above 0 it is Score-SDE's. As these it is
made for measurements without noise. The paper was read in its abstract and in surveys only: its reconstruction may
also come from a network, which is not offered, and the default of ``start`` is recalled, for super-resolution (0.2 for
inpainting, 0.02 for MRI).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost
from ipsolve.solvers.projection.score_sde import ScoreSDE
from ipsolve.solvers.steps.diffusion import steps_run
from ipsolve.solvers.steps.starts import measurement_as_image


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class CCDF(ScoreSDE):
    """CCDF. Fields that are not named here are those of ``score_sde``.

    Args:
        num_steps: N, of the whole trajectory.
        start: t_0, the share of it that is run; 1 is the parent method, from noise.
        reconstruction: x~_0, A^+ y (damped where there is a ``signal_std``), or ``measurement``, y at the size of the
            image, each of its pixels repeated.
    """

    name: ClassVar[str] = "ccdf"
    citation: ClassVar[Citation] = Citation(
        key="chung2022ccdf",
        authors="Chung, Hyungjin and Sim, Byeongsu and Ye, Jong Chul",
        title="Come-Closer-Diffuse-Faster: Accelerating Conditional Diffusion Models for Inverse Problems through "
        "Stochastic Contraction",
        year=2022,
        venue="CVPR",
        arxiv="2112.05146",
    )

    corrector_steps: Annotated[int, Field(ge=0)] = 0
    start: Annotated[float, Field(gt=0, le=1)] = 0.1
    reconstruction: Literal["pinv", "measurement"] = "pinv"

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=steps_run(self.num_steps, self.start) * (1 + self.corrector_steps))

    def _levels(self, schedule: Schedule) -> list[Level]:
        return super()._levels(schedule)[-steps_run(self.num_steps, self.start) - 1 :]

    def _first_state(self, problem: Problem, t: Level) -> Tensor:
        x = super()._first_state(problem, t)
        return x if self.start == 1 else x + t.alpha * self._reconstruction(problem)

    def _reconstruction(self, problem: Problem) -> Tensor:
        """Return x~_0, (B, *image_shape)."""
        operator = problem.linear_operator
        if self.reconstruction == "measurement":
            return measurement_as_image(problem, operator)
        return operator.pinv(problem.y, 0.0 if self.signal_std is None else (problem.noise_std / self.signal_std) ** 2)

"""ILVR: the low frequencies of every state are those of a noised reference.

Choi et al. 2021, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models" (arXiv 2108.02938),
Algorithm 1:

    x'  ~ p(x_s | x_t),   y_s ~ q(y_s | reference)
    x_s = x' + phi(y_s) - phi(x')

The paper's phi, a downsampling followed by an upsampling, is A^+ A for any linear A here, and the reference is A^+ y:
then phi(y_s) = A^+ (alpha_s y + sigma_s A n) and the update is that of Score-SDE, which has the same step and adds
Langevin corrections. The noise of y is copied into the image.

Departures of the authors' code are in the fields: it noises the reference to level t, one step above the x_s it is put
into, clips x_0, spaces the times evenly and, with ``range_t`` 0, leaves the last step free.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped, ddim_step, initial_state, noise_in, replace_measured


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ILVR(Solver):
    """ILVR. The preset ``official`` is the setting that the authors' code is published with.

    Args:
        range_t: steps are counted down to 0, the last, and those up to ``range_t`` are without conditioning, as in the
            authors' code: in ``range_t`` + 1 steps the prior is free to alter what A measures. Null conditions every
            step, which is Algorithm 1.
        reference_level: the noise of y_s: that of the ``next`` level s, as in Algorithm 1, or of t, the ``current``
            one, as in the authors' code.
        clip_denoised: clip x_0 to [-1, 1], the range of images.
        signal_std: assumed std of image values; damps A^+ by (noise_std / signal_std)^2. Null is the exact A^+.
    """

    name: ClassVar[str] = "ilvr"
    citation: ClassVar[Citation] = Citation(
        key="choi2021ilvr",
        authors="Choi, Jooyoung and Kim, Sungwon and Jeong, Yonghyun and Gwon, Youngjune and Yoon, Sungroh",
        title="ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models",
        year=2021,
        venue="ICCV",
        arxiv="2108.02938",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {
            "num_steps": 100,
            "timestep_spacing": "linspace",
            "range_t": 20,
            "reference_level": "current",
            "clip_denoised": True,
        },
    }

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    range_t: Annotated[int, Field(ge=0)] | None = None
    reference_level: Literal["next", "current"] = "next"
    clip_denoised: bool = False
    signal_std: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for step, (t, s) in enumerate(pairwise(levels)):
            x_0 = clipped(prior.denoise(x, t), self.clip_denoised)
            x = ddim_step(x_0, noise_in(x, x_0, t), t, s, eta=1.0, noise=problem.noise())
            if self.range_t is None or self.num_steps - 1 - step > self.range_t:
                level = s if self.reference_level == "next" else t
                x = replace_measured(operator, problem, x, level, problem.noise(), signal_std=self.signal_std)
        return x

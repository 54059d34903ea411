"""DCDP: fit the problem, then purify with a diffusion model, in turns.

Li, Kwon, Liang, Alkhouri, Ravishankar & Qu 2024, "Decoupled Data Consistency with Diffusion Purification for Image
Restoration" (arXiv 2403.06054). For k = 1 ... K:

    data consistency   x <- some SGD steps with momentum on ||A(x) - y||^2 from x on
    purification       x_t = alpha_t x + sigma_t noise at time T_k, and DDIM from there to the clean image

T_k falls linearly from start_time to end_time; at T_k = 0 nothing is purified. Times count the steps of the prior's
1000-step grid, so that they mean the same on any schedule of 1000 times. DDIM in one step (``ddim_steps`` 1) is the
authors' version 2, E[x_0 | x_t].

Latent priors, space = pixel: an image is fitted, encoded for purification and decoded. space = latent: a latent z is
fitted through A(D(z)), and E(D(z)) is purified.

``lr`` is the step on the sum of squares. The paper's and the code's is that on their mean over the m measured values:
lr = theirs / m, which does not change with the size of the image; the presets are theirs at 256 x 256.

Departures of the authors' code: it clips the estimates of DDIM (``clip_denoised``), whose times it spaces evenly down
to the first of the grid (``ddim_spacing``). One that is not followed: it purifies at that time where T_k = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.operators.tasks import Task
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import gradient, probability_flow

_GRID = 1000
_IMAGE, _QUARTER = 3 * 256 * 256, 3 * 64 * 64


def _published(num_steps: int, lr: float, start_time: int, m: int = _IMAGE, **more: Any) -> dict[str, Any]:
    return {"num_steps": num_steps, "lr": lr / m, "start_time": start_time, **more}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DCDP(Solver):
    """DCDP and DCDP-LDM.

    Args:
        num_steps: K.
        iterations: SGD steps of each data-consistency phase; ``lr``, ``momentum``: of SGD. On a linear operator it is
            stable for lr < (1 + momentum) / ||A||^2. The momentum starts afresh in each phase.
        start_time, end_time: T_1 and T_K.
        ddim_steps: denoiser calls of a purification (no more than T_k).
        ddim_spacing: of n times up to T_k: ``trailing``, T_k (1 - i / n), or ``linspace``, even from T_k to the
            cleanest, as in the authors' code.
        clip_denoised: clip estimates to [-1, 1] as the authors' code does; for pixel priors of images.
        space: where data are fitted. A pixel fit starts at 0, a latent one at N(0, I).
    """

    name: ClassVar[str] = "dcdp"
    citation: ClassVar[Citation] = Citation(
        key="li2024dcdp",
        authors="Li, Xiang and Kwon, Soo Min and Liang, Shijun and Alkhouri, Ismail R. and Ravishankar, Saiprasad and "
        "Qu, Qing",
        title="Decoupled Data Consistency with Diffusion Purification for Image Restoration",
        year=2024,
        arxiv="2403.06054",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "super_resolution": _published(10, 1e3, 400, _QUARTER),
        "inpainting": _published(20, 1e3, 700, iterations=50),
        "blur": _published(10, 1e5, 400),
        "latent_super_resolution": _published(10, 1e3, 400, _QUARTER, space="latent"),
        "latent_inpainting": _published(20, 1e3, 500, iterations=50, space="latent"),
        "latent_motion_blur": _published(10, 1e5, 400),
        "latent_gaussian_blur": _published(4, 1e5, 400, iterations=250),
    }

    num_steps: Annotated[int, Field(ge=1)] = 10
    iterations: Annotated[int, Field(ge=1)] = 100
    lr: Annotated[float, Field(gt=0)] = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    start_time: Annotated[int, Field(ge=0, le=_GRID)] = 400
    end_time: Annotated[int, Field(ge=0, le=_GRID)] = 0
    ddim_steps: Annotated[int, Field(ge=1)] = 20
    ddim_spacing: Literal["trailing", "linspace"] = "trailing"
    clip_denoised: bool = False
    space: Literal["pixel", "latent"] = "pixel"

    def cost(self, traits: Traits) -> Cost:
        calls = sum(min(self.ddim_steps, time) for time in self._times())
        if "latent" not in traits:
            return Cost(denoiser=calls)
        purified = sum(time > 0 for time in self._times())
        fitted, last = (self.num_steps * self.iterations, 1) if self.space == "latent" else (0, 0)
        return Cost(denoiser=calls, decoder=fitted + purified + last, decoder_backward=fitted, encoder=purified)

    def needs(self) -> Traits:
        wanted = ({"latent"} if self.space == "latent" else set()) | ({"pixel"} if self.clip_denoised else set())
        return super().needs() | wanted

    def check(self, task: Task, prior: Traits) -> None:
        if self.space == "latent" and "latent" not in prior:
            raise RequestError(f"solver {self.name} with space=latent needs a latent prior; allowed: space=pixel")
        super().check(task, prior)

    def solve(self, problem: Problem) -> Tensor:
        prior, latent = problem.prior, self.space == "latent"
        x = problem.noise() if latent else problem.y.new_zeros(problem.batch_size, *prior.image_shape)
        for time in self._times():
            x = self._fit(problem, x)
            if time == 0:
                continue
            levels = [prior.schedule.thousandth(index) for index in self._ddim_times(time)]
            z = prior.encode(prior.decode(x) if latent else x)
            z = levels[0].alpha * z + levels[0].sigma * problem.noise()
            z = probability_flow(prior, z, levels, self.clip_denoised)
            x = z if latent else prior.decode(z)
        return prior.decode(x) if latent else x

    def _times(self) -> list[int]:
        """Return T_1 ... T_K."""
        last = max(self.num_steps - 1, 1)
        return [int(self.start_time + (self.end_time - self.start_time) * k / last) for k in range(self.num_steps)]

    def _ddim_times(self, time: int) -> list[int]:
        """Return the times of a purification from T_k = ``time``, noisiest first."""
        count = min(self.ddim_steps, time)
        if self.ddim_spacing == "linspace" and count > 1:
            return [1 + round(i * (time - 1) / (count - 1)) for i in reversed(range(count))]
        return [time - time * i // count for i in range(count)]

    def _fit(self, problem: Problem, x: Tensor) -> Tensor:
        """Return x after SGD on ||A(x) - y||^2, x a latent if the fit is in latent space."""

        def energy(point: Tensor) -> Tensor:
            return squared_norm(problem.residual(problem.prior.decode(point) if self.space == "latent" else point))

        velocity = torch.zeros_like(x)
        for _ in range(self.iterations):
            velocity = self.momentum * velocity + gradient(energy, x)
            x = x - self.lr * velocity
        return x

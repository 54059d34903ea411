"""DMPlug: fit the noise from which a few DDIM steps make the image.

Wang, Zhang, Li, Wan, Chen & Sun 2024, "DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion Models"
(arXiv 2405.16749):

    min_z ||A(R(z)) - y||^2 / m    by Adam from z ~ N(0, I),

R deterministic DDIM in a few steps from the state x_T = sqrt(alpha_T^2 + sigma_T^2) z, which is z for variance
preserving priors. Every iteration calls the denoiser ``num_steps`` times, and back. Latent priors: A(D(R(z))).

The answer is R(z) where its windowed variance was lowest (ES-WMV, as in the paper's Algorithm 3):
:mod:`ipsolve.solvers.steps.early_stopping`. ``patience`` null makes all iterations and answers with the last z.

Departures of the authors' code: it has no early stopping and keeps the iterate with the best PSNR to the truth, which
is not done here. It clips every estimate of x_0, and so the image, to [-1, 1] (``clip_denoised``). Its L-BFGS form, and
blind deblurring, are left out. The window and the patience for diffusion models are in neither paper nor code that was
read: those here are guesses below the 100 and 1000 of the deep image prior.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.optim import Optimizer

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import probability_flow, vp_scale
from ipsolve.solvers.steps.early_stopping import Render, WindowedVariance, settle


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DMPlug(Solver):
    """DMPlug.

    Args:
        num_steps: DDIM steps of R.
        iterations: Adam steps at most: 5000 for super-resolution and inpainting, 10000 for non-linear deblurring.
        lr: of Adam.
        window, patience: of ES-WMV; patience null is no early stopping.
        clip_denoised: clip every estimate of x_0 to [-1, 1]; for pixel priors of images.
    """

    name: ClassVar[str] = "dmplug"
    citation: ClassVar[Citation] = Citation(
        key="wang2024dmplug",
        authors="Wang, Hengkang and Zhang, Xu and Li, Taihui and Wan, Yuxiang and Chen, Tiancong and Sun, Ju",
        title="DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion Models",
        year=2024,
        venue="NeurIPS",
        arxiv="2405.16749",
    )

    num_steps: Annotated[int, Field(ge=1)] = 3
    timestep_spacing: Spacing | None = None
    iterations: Annotated[int, Field(ge=1)] = 5000
    lr: Annotated[float, Field(gt=0)] = 0.01
    window: Annotated[int, Field(ge=2)] = 50
    patience: Annotated[int, Field(ge=1)] | None = 300
    clip_denoised: bool = False

    def cost(self, traits: Traits) -> Cost:
        renders = self.iterations + (self.patience is None)
        calls = Cost(denoiser=renders * self.num_steps, denoiser_backward=self.iterations * self.num_steps)
        if "latent" in traits:
            calls = replace(calls, decoder=renders, decoder_backward=self.iterations)
        bounded = frozenset({"denoiser", "denoiser_backward", "decoder", "decoder_backward"})
        return calls if self.patience is None else replace(calls, up_to=bounded)

    def needs(self) -> Traits:
        return super().needs() | ({"pixel"} if self.clip_denoised else set())

    def solve(self, problem: Problem) -> Tensor:
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)[:-1]

        def make(points: list[Tensor]) -> Optimizer:
            return torch.optim.Adam(points, lr=self.lr)

        def render_of(rows: Tensor) -> Render:
            part = problem.select(rows)

            def render(points: list[Tensor], iteration: int) -> tuple[Tensor, Tensor]:
                start = vp_scale(levels[0]) * points[0]
                x = part.prior.decode(probability_flow(part.prior, start, levels, self.clip_denoised))
                return part.image_mean_square(x), x

            return render

        stopping = None if self.patience is None else WindowedVariance(self.window, self.patience)
        return settle(render_of, [problem.noise()], make, max_iterations=self.iterations, stopping=stopping)

"""The deep image prior: an untrained network is fitted to the measurement, and stopped before it fits the noise.

Ulyanov, Vedaldi & Lempitsky 2018, "Deep Image Prior" (arXiv 1711.10925): with z ~ U(0, 0.1) of ``in_channels``,

    min_theta ||A(f_theta(z + jitter n)) - y||^2 / m    by Adam,

n drawn anew in every iteration. No prior network is used: f is new for each image, its weights and z from the image's
stream. The architecture is in :mod:`ipsolve.solvers.steps.skip_net`.

The answer is f_theta(z), without jitter, where its windowed variance was lowest (ES-WMV: Wang et al. 2023, arXiv
2112.06074), with the window and the patience of that paper. ``patience`` null makes all iterations, the number of which
is the only stop of the original.

Left out: the running average of outputs and the TV term of some of the authors' examples. The defaults are the authors'
for denoising (jitter) and inpainting (iterations are 2000 to 11000 by task), as repeated in code that builds on theirs;
on a small image and a CPU that takes hours, and fewer ``channels`` and iterations are the remedy.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.optim import Optimizer

from ipsolve.citation import Citation
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Solver
from ipsolve.solvers.steps.early_stopping import Render, WindowedVariance, settle
from ipsolve.solvers.steps.skip_net import SkipNet

_INPUT = 0.1  # largest value of z


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DeepImagePrior(Solver):
    """The deep image prior, for images of any size of at least 2 x 2 (rgb, gray, complex).

    Args:
        channels, skip_channels, scales: of the network: width, width of its skip connections, halvings (as many as the
            image allows at most).
        in_channels: of z.
        iterations: Adam steps at most.
        lr: of Adam.
        jitter: std of the noise on z.
        window, patience: of ES-WMV; patience null is no early stopping.
    """

    name: ClassVar[str] = "deep_image_prior"
    citation: ClassVar[Citation] = Citation(
        key="ulyanov2018dip",
        authors="Ulyanov, Dmitry and Vedaldi, Andrea and Lempitsky, Victor",
        title="Deep Image Prior",
        year=2018,
        venue="CVPR",
        arxiv="1711.10925",
    )
    requires: ClassVar[Traits] = frozenset({"image"})

    channels: Annotated[int, Field(ge=1)] = 128
    skip_channels: Annotated[int, Field(ge=1)] = 4
    scales: Annotated[int, Field(ge=0)] = 5
    in_channels: Annotated[int, Field(ge=1)] = 32
    iterations: Annotated[int, Field(ge=1)] = 5000
    lr: Annotated[float, Field(gt=0)] = 0.01
    jitter: Annotated[float, Field(ge=0)] = 1 / 30
    window: Annotated[int, Field(ge=2)] = 100
    patience: Annotated[int, Field(ge=1)] | None = 1000

    def solve(self, problem: Problem) -> Tensor:
        colours, height, width = problem.prior.image_shape
        net = SkipNet(self.in_channels, colours, (height, width), self.channels, self.skip_channels, self.scales)
        dtype, streams = problem.y.dtype, problem.rng.child("jitter")
        z = _INPUT * problem.rng.uniform(self.in_channels, height, width, dtype=dtype)

        def make(points: list[Tensor]) -> Optimizer:
            return torch.optim.Adam(points, lr=self.lr)

        def render_of(rows: Tensor) -> Render:
            part, inputs = problem.select(rows), z[rows]

            def render(weights: list[Tensor], iteration: int) -> tuple[Tensor, Tensor]:
                if self.jitter == 0:
                    x = net(weights, inputs)
                    return part.image_mean_square(x), x
                noise = streams.child(iteration).select(rows).normal(*inputs.shape[1:], dtype=dtype)
                loss = part.image_mean_square(net(weights, inputs + self.jitter * noise))
                with torch.no_grad():
                    return loss, net(weights, inputs)

            return render

        stopping = None if self.patience is None else WindowedVariance(self.window, self.patience)
        weights = net.draw(problem.rng, dtype)
        return settle(render_of, weights, make, max_iterations=self.iterations, stopping=stopping)

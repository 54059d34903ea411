"""FlowChef: the state of a flow is steered by the gradient at its clean end, as if the velocity did not change.

Patel, Wen, Metaxas & Yang 2025, "Steering Rectified Flow Models in the Vector Field for Controlled Image Generation"
(FlowChef, arXiv 2412.00100). With the velocity v at x_t = (1 - t) x_0 + t n, from t to s:

    x_0 = x_t - t v
    x_t <- x_t - guidance_scale grad_{x_0} ||A(D(x_0)) - y||^2 / m        iterations times, v held
    x_s = x_t + (s - t) v

On a straight flow, where v is constant along the path, the Jacobian d x_0 / d x_t that is skipped is the identity.
Nothing but the data term is differentiated. A prior of another kind is seen as a flow, exactly
(:func:`ipsolve.priors.coordinates.as_flow`), on its own levels. With one iteration it is MPGD by deterministic DDIM
steps, but for the length of the step: MPGD moves x_s by c grad ||r||, whose norm is not squared.

The authors' code (pixel form, read at 6c15250) takes the mean over all entries of y, also where a mask left none, and
leaves the last step unguided (``guide_last``). Its forms for latent models, which step by Adam or on masked latents,
are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.coordinates import as_flow
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import gradient, initial_state, noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FlowChef(Solver):
    """FlowChef.

    Args:
        guidance_scale: of the gradient of the mean squared residual (500 in the authors' runs on 64 x 64 pixels).
        iterations: gradient steps in each step of the flow.
        guide_last: guide the last step too, whose answer then moves by a gradient after which nothing denoises it
            any more; false is the authors' code.
    """

    name: ClassVar[str] = "flowchef"
    citation: ClassVar[Citation] = Citation(
        key="patel2025flowchef",
        authors="Patel, Maitreya and Wen, Song and Metaxas, Dimitris N. and Yang, Yezhou",
        title="Steering Rectified Flow Models in the Vector Field for Controlled Image Generation",
        year=2025,
        venue="ICCV",
        arxiv="2412.00100",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"official": {"guide_last": False}}

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    guidance_scale: Annotated[float, Field(ge=0)] = 500.0
    iterations: Annotated[int, Field(ge=1)] = 1
    guide_last: bool = True

    def cost(self, traits: Traits) -> Cost:
        if "latent" not in traits:
            return Cost(denoiser=self.num_steps)
        guided = (self.num_steps if self.guide_last else self.num_steps - 1) * self.iterations
        return Cost(denoiser=self.num_steps, decoder=guided + 1, decoder_backward=guided)

    def solve(self, problem: Problem) -> Tensor:
        prior = as_flow(problem.prior)
        problem = replace(problem, prior=prior)
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for step, (t, s) in enumerate(pairwise(levels), start=1):
            x_0 = prior.denoise(x, t)
            v = noise_in(x, x_0, t) - x_0
            for _ in range(self.iterations if self.guide_last or step < self.num_steps else 0):
                update = self.guidance_scale * gradient(problem.mean_square, x_0)
                x_0, x = x_0 - update, x - update
            x = x + (s.sigma - t.sigma) * v
        return prior.decode(x / levels[-1].alpha)  # a schedule may end before the clean image

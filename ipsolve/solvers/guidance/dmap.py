"""DMAP: the guided step of DPS made what it is, an ascent to a mode, and kept where the noise of the step would be.

Xu et al. 2025, "Rethinking Diffusion Posterior Sampling: From Conditional Score Estimator to Maximizing a Posterior"
(arXiv 2501.18913): DPS does not estimate a score, it climbs, and does so better with several steps and a projection.
With mean and sigma those of DDIM_eta(x_t) and n the dimension of an image,

    x   = mean + sigma z,    z ~ N(0, I)
    x  <- x - zeta grad_x ||y - A(D(x_0(x)))||,    K times, the gradient at level s, at the new x
    x_s = mean + sqrt(n) sigma (x - mean) / ||x - mean||

The sphere is where N(mean, sigma^2 I) concentrates (DSG, arXiv 2402.03201, turns once, by the gradient at x_t). It is a
mode seeker: its samples fit y more closely than those of the posterior do, and are alike.

Only the abstract and captions of figures of the paper were read. Reconstructed from them: that the projection follows
the K steps, once, and the defaults, of which ``num_steps`` and ``zeta`` are DPS's and K is a guess. Its second part, a
trained estimator of the conditional score, is left out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar

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
from ipsolve.solvers.steps.diffusion import ddim_step, initial_state, noise_in, posterior_std, vp_scale
from ipsolve.solvers.steps.guidance import denoise_with_gradient


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DMAP(Solver):
    """DMAP with any differentiable operator; for latent priors the gradient is also taken through the decoder.

    Args:
        ascent_steps: K; 0 leaves DDIM with noise of its most likely length.
        zeta: step size, of variance preserving states as in ``dps``.
        eta: of the DDIM step; the sphere is that of its noise, so 0 would leave nothing.
    """

    name: ClassVar[str] = "dmap"
    citation: ClassVar[Citation] = Citation(
        key="xu2025dmap",
        authors="Xu, Tongda and Cai, Xiyan and Zhang, Xinjie and others",
        title="Rethinking Diffusion Posterior Sampling: From Conditional Score Estimator to Maximizing a Posterior",
        year=2025,
        venue="ICLR",
        arxiv="2501.18913",
    )

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    ascent_steps: Annotated[int, Field(ge=0)] = 3
    zeta: Annotated[float, Field(ge=0)] = 0.3
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        # a step to the clean image has no sphere, and takes no ascent; whether there is one is the schedule's affair
        guided = self.num_steps * self.ascent_steps
        calls = Cost(
            denoiser=self.num_steps + guided,
            denoiser_backward=guided,
            up_to=frozenset({"denoiser", "denoiser_backward", "decoder", "decoder_backward"}),
        )
        if "latent" not in traits:
            return calls
        return Cost(calls.denoiser, guided, decoder=guided + 1, decoder_backward=guided, up_to=calls.up_to)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            x_0 = prior.denoise(x, t)
            mean, sigma = ddim_step(x_0, noise_in(x, x_0, t), t, s, self.eta), self.eta * posterior_std(t, s)
            noise = problem.noise()
            x = mean if sigma == 0 else self._step(problem, mean, sigma, s, noise)
        return prior.decode(x)

    def _step(self, problem: Problem, mean: Tensor, sigma: float, s: Level, noise: Tensor) -> Tensor:
        """Return x_s, on the sphere around ``mean``; ``noise`` ~ N(0, I)."""
        x = mean + sigma * noise
        for _ in range(self.ascent_steps):
            gradient = denoise_with_gradient(problem.prior, x, s, problem.distance)[1]
            x = x - self.zeta * vp_scale(s) ** 2 * gradient
        d = x - mean
        radius = math.sqrt(d[0].numel()) * sigma
        return mean + radius * d / per_image(norm(d).clamp_min(torch.finfo(d.dtype).tiny), d)

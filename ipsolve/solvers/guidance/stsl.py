"""STSL: guidance that also lowers the uncertainty of the estimate, by its trace from one probe.

Rout, Chen, Kumar, Caramanis, Shakkottai & Chu 2024, "Beyond First-Order Tweedie: Solving Inverse Problems using Latent
Diffusion" (arXiv 2312.00852). At each level K times, with fresh probes e ~ N(0, I),

    z_t <- z_t - grad_{z_t} [ zeta ||y - A(D(z_0(z_t)))|| + eta / d tr ],
    tr  =  sigma_t^2 / alpha_t  mean_i e_i^T (z_0(z_t + h e_i) - z_0(z_t)) / h  ~  tr Cov[z_0 | z_t],

then a deterministic DDIM step; d entries, h = ``probe_std`` in units of the variance preserving state, in which the
update is taken too. Without curvature, as for a Gaussian, the second gradient is 0.

There is no official code. The form of the trace is that of a pixel re-implementation in the repository of Peng et al.
2024 (arXiv 2402.02149), with its unit probes: h = 1 is no derivative. The loop, 50 levels of 5 updates, is from memory,
and zeta and eta are starting values of ours: the paper's could not be read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import cap_rms, ddim_step, initial_state, noise_in, vp_scale


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class STSL(Solver):
    """STSL.

    Args:
        inner_steps: K, updates of each state.
        zeta: weight of the data.
        eta: weight of the uncertainty; 0 takes no probes.
        num_probes: probes of each update.
        probe_std: h.
        max_update_rms: limit on the root mean square of one update; null is the published method.
    """

    name: ClassVar[str] = "stsl"
    citation: ClassVar[Citation] = Citation(
        key="rout2024stsl",
        authors="Rout, Litu and Chen, Yujia and Kumar, Abhishek and Caramanis, Constantine and Shakkottai, Sanjay "
        "and Chu, Wen-Sheng",
        title="Beyond First-Order Tweedie: Solving Inverse Problems using Latent Diffusion",
        year=2024,
        venue="CVPR",
        arxiv="2312.00852",
    )

    num_steps: Annotated[int, Field(ge=1)] = 50
    timestep_spacing: Spacing | None = None
    inner_steps: Annotated[int, Field(ge=1)] = 5
    zeta: Annotated[float, Field(ge=0)] = 0.5
    eta: Annotated[float, Field(ge=0)] = 0.02
    num_probes: Annotated[int, Field(ge=1)] = 1
    probe_std: Annotated[float, Field(gt=0)] = 1.0
    max_update_rms: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        updates = self.num_steps * self.inner_steps
        calls = updates * (1 + (self.num_probes if self.eta > 0 else 0))
        if "latent" not in traits:
            return Cost(denoiser=calls + self.num_steps, denoiser_backward=calls)
        return Cost(calls + self.num_steps, calls, decoder=updates + 1, decoder_backward=updates)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            for _ in range(self.inner_steps):
                z = z - vp_scale(t) * cap_rms(vp_scale(t) * self._gradient(problem, z, t), self.max_update_rms)
            z_0 = prior.denoise(z, t)
            z = ddim_step(z_0, noise_in(z, z_0, t), t, s)
        return prior.decode(z)

    def _gradient(self, problem: Problem, z_t: Tensor, t: Level) -> Tensor:
        """Return the gradient of data and uncertainty, (B, *latent_shape)."""
        probes = [problem.noise() for _ in range(self.num_probes if self.eta > 0 else 0)]
        with torch.enable_grad():
            point = z_t.detach().requires_grad_()
            z_0 = problem.prior.denoise(point, t)
            objective = self.zeta * problem.distance(z_0)
            step = self.probe_std * vp_scale(t)
            # pure noise, alpha_t = 0, says nothing of z_0: its uncertainty is that of the prior, whatever z_t
            weight = 0.0 if t.alpha == 0 else self.eta * t.sigma**2 / (t.alpha * step * z_0[0].numel())
            for probe in probes:
                change = problem.prior.denoise(point + step * probe, t) - z_0
                objective = objective + weight / self.num_probes * (probe * change).flatten(1).sum(1)
            return torch.autograd.grad(objective.sum(), point)[0]

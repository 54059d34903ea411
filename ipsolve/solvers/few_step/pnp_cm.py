"""PnP-CM: a consistency model as the proximal map of the prior, in plug-and-play ADMM.

Gulle, Yun, Alcalar & Akcakaya 2026, "Consistency Models as Plug-and-Play Priors for Inverse Problems" (arXiv
2509.22736). From x = u = 0, with momenta x~ = x, u~ = u, for the noise stds s_k, k = 1 ... K:

    z  = argmin_z ||A(z) - y||^2 + p_k ||z - (x~ - u~)||^2
    x  <- f(z + u~ + s_k n, (1 + delta_k) s_k)                     f is told more noise than there is
    u  <- u~ + z - x
    x~ = x + mu_k (x - x_before),  u~ = u + mu_k (u - u_before),   mu_k = mu_0 / k

    1 - s_{k+1}^2 = min((1 + gamma) (1 - s_k^2), 0.9999),   p_k = softplus of rhos[0] ... rhos[1], evenly spaced

f(x_0 + s n, s) is the one-call map from noise to an image: the consistency function of a consistency prior, for which
the method is made. It is ``prior.denoise`` here, so that with a diffusion prior it is the posterior mean. s is
sigma_t / alpha_t. Latent priors: x, z and u are images, f acts on E(z + u~) and is decoded.

The equations are those of the authors' code, whose numbers are the defaults (deblurring) and the presets, at
sigma_y = 0.1 on [-1, 1]; the paper was not compared. p_k does not know the noise level there, nor here. s_1 is given as
a time ``iN`` of DDPM's table there, 100 or 150. The code clips x to [-1, 1] (``clip_denoised``), and starts inpainting
from a median filter, which is left out. Non-linear A: gradient steps in the place of its optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import softplus

from ipsolve.citation import Citation
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped
from ipsolve.solvers.steps.proximal import data_prox

_LARGEST_SIGNAL = 0.9999  # 1 - s^2 at most, the authors'

Deltas = Annotated[tuple[Annotated[float, Field(gt=-1)], ...], Field(min_length=1)]


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PnPCM(Solver):
    """PnP-CM.

    Args:
        deltas: delta_k, one for each of the K steps.
        start_std: s_1.
        gamma: how fast the noise falls.
        rhos: where the penalties p_k begin and end, before the softplus.
        mu_0: of the momentum.
        clip_denoised: clip x to [-1, 1].
        prox_iterations, prox_lr: gradient steps that stand for the proximal step of a non-linear A, see
            :func:`ipsolve.solvers.steps.proximal.data_prox`.
    """

    name: ClassVar[str] = "pnp_cm"
    citation: ClassVar[Citation] = Citation(
        key="gulle2026pnpcm",
        authors='G{\\"u}lle, Merve and Yun, Junno and Al{\\c{c}}alar, Ya{\\c{s}}ar Utku and Ak{\\c{c}}akaya, Mehmet',
        title="Consistency Models as Plug-and-Play Priors for Inverse Problems",
        year=2026,
        venue="CVPR",
        arxiv="2509.22736",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deblurring": {"clip_denoised": True},
        "super_resolution": {
            "deltas": (0.3, 0.05, 0.2, 0.2),
            "start_std": 0.465,
            "gamma": 0.2,
            "rhos": (-4.0, 4.0),
            "mu_0": 0.2,
            "clip_denoised": True,
        },
        "random_inpainting": {
            "deltas": (0.3, 0.2, 0.8, 0.8),
            "rhos": (-6.0, 12.0),
            "mu_0": 0.05,
            "clip_denoised": True,
        },
    }

    deltas: Deltas = (0.3, 0.2, 0.1, 0.1)
    start_std: Annotated[float, Field(gt=0, lt=1)] = 0.327
    gamma: Annotated[float, Field(ge=0)] = 0.1
    rhos: tuple[float, float] = (-4.0, 6.5)
    mu_0: Annotated[float, Field(ge=0)] = 0.1
    clip_denoised: bool = False
    prox_iterations: Annotated[int, Field(ge=1)] = 20
    prox_lr: Annotated[float, Field(gt=0)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        calls = len(self.deltas)
        coded = calls if "latent" in traits else 0
        return Cost(denoiser=calls, decoder=coded, encoder=coded)

    def solve(self, problem: Problem) -> Tensor:
        prior, schedule = problem.prior, problem.prior.schedule
        x = problem.y.new_zeros(problem.batch_size, *prior.image_shape)
        u = x_ahead = u_ahead = x
        first, last = self.rhos
        penalties = softplus(torch.linspace(first, last, len(self.deltas), dtype=torch.float64)).tolist()
        for k, (std, delta, penalty) in enumerate(zip(self._stds(), self.deltas, penalties, strict=True), start=1):
            goal = x_ahead - u_ahead
            z = data_prox(problem, goal, penalty, iterations=self.prox_iterations, lr=self.prox_lr)
            told = schedule.at_ratio((1 + delta) * std)
            noisy = prior.encode(z + u_ahead) + schedule.at_ratio(std).ratio * problem.noise()
            x_before, u_before = x, u
            x = clipped(prior.decode(prior.denoise(told.alpha * noisy, told)), self.clip_denoised)
            u = u_ahead + z - x
            momentum = self.mu_0 / k
            x_ahead, u_ahead = x + momentum * (x - x_before), u + momentum * (u - u_before)
        return x

    def _stds(self) -> list[float]:
        """Return s_1 ... s_K."""
        signals = [1 - self.start_std**2]
        for _ in self.deltas[1:]:
            signals.append(min((1 + self.gamma) * signals[-1], _LARGEST_SIGNAL))
        return [(1 - signal) ** 0.5 for signal in signals]

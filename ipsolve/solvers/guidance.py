"""Guided sampling: the loop of DPS and its descendants."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ipsolve.priors.base import Prior
from ipsolve.randomness import ImageRng
from ipsolve.solvers.steps import cap_rms, ddim_step, noise_in


def guided_sampling(
    prior: Prior,
    rng: ImageRng,
    objective: Callable[[Tensor], Tensor],
    *,
    num_steps: int,
    eta: float,
    max_update_rms: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """Sample by x_s = DDIM(x_t) - grad_{x_t} objective(x_0(x_t)), the gradient taken through the denoiser.

    Chung et al. 2023 (arXiv 2209.14687), Algorithm 1, for any objective and schedule.

    Args:
        objective: maps estimates of x_0, (B, *latent_shape), to one value per image, (B,).
        max_update_rms: limit on the root mean square of each image's update; None for none.

    Returns:
        The final state, (B, *latent_shape).
    """
    levels = prior.schedule.levels(num_steps)
    x = levels[0].sigma * rng.normal(*prior.latent_shape, dtype=dtype)
    for t, s in pairwise(levels):
        with torch.enable_grad():
            x_t = x.detach().requires_grad_()
            x_0 = prior.denoise(x_t, t)
            update = torch.autograd.grad(objective(x_0).sum(), x_t)[0]
        x_t, x_0 = x_t.detach(), x_0.detach()
        noise = rng.normal(*prior.latent_shape, dtype=dtype) if eta > 0 else None
        x = ddim_step(x_0, noise_in(x_t, x_0, t), t, s, eta, noise) - cap_rms(update, max_update_rms)
    return x

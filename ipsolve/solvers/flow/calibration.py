"""How far the velocity of a flow is from that of its samples, by time: what FLAIR weighs its prior by."""

from __future__ import annotations

import numpy as np
import torch

from ipsolve.priors.base import Prior
from ipsolve.priors.coordinates import as_flow
from ipsolve.randomness import image_rng
from ipsolve.solvers.steps.diffusion import probability_flow


def white_errors(count: int) -> tuple[float, ...]:
    """Return the mean squared error of the exact velocity for z_0 ~ N(0, I), at ``count`` even times from 1 to 0.

    Var[n - z_0 | (1 - t) z_0 + t n] = 1 / ((1 - t)^2 + t^2).
    """
    return tuple(1 / ((1 - t) ** 2 + t**2) for t in np.linspace(1.0, 0.0, count).tolist())


@torch.no_grad()
def velocity_errors(
    prior: Prior,
    count: int = 11,
    *,
    samples: int = 32,
    num_steps: int = 50,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, ...]:
    """Return the mean of (v(z_t, t) - (n - z_0))^2 over samples z_0 of the prior, at ``count`` even times from 1 to 0.

    Samples are drawn by the probability flow of the prior: no image and no measurement is seen. The result is what
    :class:`FLAIR` has as ``errors``. Beyond the ends of the schedule, where it has no level, its own end stands in; at
    t = 0 the noise is not to be seen in z_t at all and the error of its best guess, 0, is 1.

    Args:
        samples: drawn, each with noise of its own at every time.
        num_steps: of the probability flow.
        seed: of samples and noise.

    Raises:
        RequestError: the schedule of the prior has not that many steps.
    """
    flow = as_flow(prior)
    rng = image_rng(seed, [f"sample {i}" for i in range(samples)], "calibration")
    levels = flow.schedule.levels(num_steps)[:-1]
    z_0 = probability_flow(flow, levels[0].sigma * rng.normal(*flow.latent_shape, dtype=dtype), levels)
    errors = []
    for t in np.linspace(1.0, 0.0, count).tolist():
        noise = rng.normal(*flow.latent_shape, dtype=dtype)
        level = flow.schedule.at_ratio(t / (1 - t) if t < 1 else float("inf"))
        if t == 0:
            errors.append(1.0)
            continue
        z_t = level.alpha * z_0 + level.sigma * noise
        v = (z_t - flow.denoise(z_t, level)) / level.sigma
        errors.append(float((v - (noise - z_0)).double().square().mean()))
    return tuple(errors)

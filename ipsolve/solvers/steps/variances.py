"""How far x_0 is from its estimate: the variance of p(x_0 | x_t) by level, as a table, and how a table is made.

Peng et al. 2024 (arXiv 2402.02149): of all N(E[x_0 | x_t], v I) the likeliest has v = E|x_0 - E[x_0 | x_t]|^2 / n, and
likewise for a v of each band of a wavelet. A table is rows (r, v) or (r, v_0 .. v_3L), r = sigma_t / alpha_t growing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ipsolve.priors.base import Prior
from ipsolve.randomness import ImageRng
from ipsolve.solvers.steps.haar import haar, haar_bands

Table = tuple[tuple[float, ...], ...]


def estimate_variances(
    prior: Prior, x_0: Tensor, ratios: Sequence[float], rng: ImageRng, haar_levels: int = 0
) -> Table:
    """Return the table of a pixel prior, from images of its training data, never from those to be restored.

    Args:
        x_0: (B, *image_shape).
        ratios: growing; they are clipped to what the prior knows, and the table says what was used.
        haar_levels: L of the wavelet; 0 is one variance for all pixels.
    """
    rows: list[tuple[float, ...]] = []
    for ratio in ratios:
        t = prior.schedule.at_ratio(ratio)
        noise = rng.normal(*x_0.shape[1:], dtype=x_0.dtype)
        with torch.no_grad():
            error = x_0 - prior.denoise(t.alpha * x_0 + t.sigma * noise, t)
        if haar_levels == 0:
            rows.append((t.ratio, float(error.square().mean())))
            continue
        energy = haar(error, haar_levels).square().flatten(0, -3).mean(0)
        height, width = error.shape[-2:]
        band = haar_bands(height, width, haar_levels).to(energy.device)
        rows.append((t.ratio, *(float(energy[band == k].mean()) for k in range(3 * haar_levels + 1))))
    return tuple(rows)


def variances_at(table: Table, ratio: float) -> list[float]:
    """Return the variances at a level, linear in the logarithms of both; below the first row they fall as r^2."""
    rows = np.log(np.asarray(table))
    at = np.log(ratio)
    below = min(2 * (at - rows[0, 0]), 0.0)
    return [float(np.exp(np.interp(at, rows[:, 0], column) + below)) for column in rows[:, 1:].T]


def haar_levels_of(table: Table) -> int:
    """Return L, 0 for a table of one variance."""
    return (len(table[0]) - 2) // 3

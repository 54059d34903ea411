"""Motion-blur kernels of the papers: a random walk with inertia, drawn with a pen.

The process is that of the package ``motionblur`` (Levi Borodenko), whose kernels DPS, ReSample and DAPS use, from its
description. On a canvas of twice the size, whose diagonal is D, at ``intensity`` i:

    length    of the path: 3/4 D (U(0, 1) + U(0, i^2))
    steps     Beta(1, 30) (1.1 - i) D, none as long as the path, until the path is as long
    headings  the first from U(-m, m), with m ~ U(0, pi i) of the path; each other of a size Triangular(0, i m, m + 0.1)
              and of the sign of the one before, which flips with a probability of the path, Beta(2, 20)

The mean of its corners is moved to the middle and the path is turned by U(0, pi). The pen marks a pixel once, however
often it passes, so that the centroid of a kernel is not its middle; what leaves the canvas is lost. Then the picture is
blurred a little and shrunk by two.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ipsolve.randomness import ImageRng


def walk_kernels(size: int, intensity: float, rng: ImageRng, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw one motion-blur kernel per image, (B, size, size), each >= 0 and of sum 1.

    Departures from the package: the blur is a true Gaussian, values are not rounded to bytes, and the pen is a pixel
    wide at least (below 54 pixels the package's is 0 wide, with which today's Pillow draws nothing).

    Args:
        size: side in pixels.
        intensity: 0, a straight motion, to 1, a tangled one.
        rng: one stream per image.
    """
    canvas, diagonal = 2 * size, 2 * size * math.sqrt(2)
    corners, drawn = _walk(intensity, rng)
    pen = max(1, int(diagonal / 150))
    marks = _marks(corners * diagonal + size, drawn, canvas, pen)
    shrink = torch.from_numpy(_shrinking(size, int(0.01 * diagonal))).to(marks)
    kernel = (shrink @ marks @ shrink.T).clamp_min(0)  # the lobes of the shrinking filter go below
    return (kernel / kernel.sum((1, 2), keepdim=True)).to(dtype)


def _walk(intensity: float, rng: ImageRng) -> tuple[Tensor, Tensor]:
    """Return the corners of the paths about their mean, (B, n, 2), in diagonals, and which belong to a path, (B, n)."""
    expected = 0.75 * (1 + intensity**2) * 31 / (1.1 - intensity)  # steps of the longest path
    n = math.ceil(expected + 10 * math.sqrt(expected)) + 10  # ten standard deviations more: it never ends early

    def uniform(count: int) -> Tensor:
        return rng.uniform(count, dtype=torch.float64)

    length = 0.75 * (uniform(1) + intensity**2 * uniform(1)).clamp_min(1e-9)
    scale = 1.1 - intensity
    shorter = 1 - (1 - (length / scale).clamp(max=1)) ** 30  # the share of Beta(1, 30) that is shorter than the path
    steps = scale * (1 - (1 - shorter * uniform(n)) ** (1 / 30))
    drawn = steps.cumsum(1) - steps < length

    m = math.pi * intensity * uniform(1)
    flip = uniform(21).sort(1).values[:, 1:2]  # the second smallest of 21 is Beta(2, 20)
    first = m * (2 * uniform(1) - 1)
    sizes = _triangular(uniform(n - 1), intensity * m, m + 0.1)
    signs = first.sign() * torch.where(uniform(n - 1) < flip, -1.0, 1.0).cumprod(1)
    headings = torch.cat([first, signs * sizes], 1) + math.pi * uniform(1)

    path = (steps[..., None] * torch.stack([headings.sin(), headings.cos()], -1)).cumsum(1)
    kept = drawn[..., None]
    return path - (path * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True), drawn


def _triangular(u: Tensor, mode: Tensor, end: Tensor) -> Tensor:
    """Return the quantiles ``u`` of the triangular distribution on [0, end] with its peak at ``mode``."""
    return torch.where(u * end < mode, (u * end * mode).sqrt(), end - ((1 - u) * end * (end - mode)).sqrt())


def _marks(points: Tensor, drawn: Tensor, canvas: int, pen: int) -> Tensor:
    """Return the pixels, 1 or 0, that a line through ``points`` (B, n, 2) marks, (B, canvas, canvas)."""
    begin, end = points[:, :-1], points[:, 1:]
    along = end - begin
    across = torch.stack([-along[..., 1], along[..., 0]], -1) / along.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    marks = points.new_zeros(len(points), canvas * canvas)
    for shift in range(pen):
        side = (shift - (pen - 1) / 2) * across
        start, stop = (begin + side).floor(), (end + side).floor()
        count = (stop - start).abs().amax(-1, keepdim=True)  # one pixel per row or column, whichever there are more of
        position = torch.arange(int(count.amax()) + 1, device=points.device) / count.clamp_min(1)
        at = (start[:, :, None] + position.clamp(max=1)[..., None] * (stop - start)[:, :, None] + 0.5).floor()
        seen = ((at >= 0) & (at < canvas)).all(-1) & drawn[:, 1:, None]
        index = torch.where(seen, at[..., 0] * canvas + at[..., 1], 0.0).long()
        marks.scatter_reduce_(1, index.flatten(1), seen.flatten(1).to(points.dtype), "amax")
    return marks.reshape(-1, canvas, canvas)


@lru_cache(maxsize=16)
def _shrinking(size: int, blur: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the matrix (size, 2 size) of a Gaussian blur of std ``blur`` and of Lanczos-3 shrinking by two."""
    fine = np.arange(2 * size) + 0.5
    offset = (fine - 2 * np.arange(size)[:, None] - 1) / 2
    lanczos = np.sinc(offset) * np.sinc(offset / 3) * (np.abs(offset) < 3)
    lanczos /= lanczos.sum(1, keepdims=True)
    if blur == 0:
        return lanczos
    gaussian = np.exp(-0.5 * ((fine[:, None] - fine) / blur) ** 2)
    return np.asarray(lanczos @ (gaussian / gaussian.sum(1, keepdims=True)))

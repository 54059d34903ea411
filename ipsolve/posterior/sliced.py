"""Comparisons along random directions: sliced Wasserstein distances and the coverage of central intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9, 0.95)
Sorted = NDArray[np.float32]  # (slices, N): projections on each direction in ascending order


class SlicedReference:
    """Reference samples, projected on random unit directions and sorted once for all sample sets to be compared.

    Args:
        reference: (M, d).
        num_slices: directions.
        seed: of the directions, which are a function of it and of d.
    """

    chunk = 500  # directions at a time: their projections stay in the cache; it belongs to the random stream

    def __init__(self, reference: Tensor, num_slices: int = 10_000, seed: int = 0) -> None:
        self.num_slices, self.seed = num_slices, seed
        self._centre = reference.double().mean(0)
        self._sorted = list(self._project(reference))

    def compare(self, x: Tensor) -> dict[str, float]:
        """Return ``sliced_wasserstein_1``, ``sliced_wasserstein_2`` and ``coverage_50`` ... of samples x, (N, d).

        SW_p = (mean over directions u of W_p^p(<u, x>, <u, reference>))^(1/p), each W_p exact also for N != M
        (Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures"). A coverage is the share of the
        reference that lies inside the central interval of the samples, over all directions: the level for a perfect
        sampler, less for one too narrow or beside it.
        """
        first, second, covered = 0.0, 0.0, np.zeros(len(LEVELS))
        for ours, theirs in zip(self._project(x), self._sorted, strict=True):
            gaps, widths = _quantile_gaps(ours, theirs)
            first += float((np.abs(gaps) @ widths).sum())
            second += float((np.square(gaps) @ widths).sum())
            covered += [_covered(ours, theirs, level) for level in LEVELS]
        shares = (covered / self.num_slices).tolist()
        return {
            "sliced_wasserstein_1": first / self.num_slices,
            "sliced_wasserstein_2": float(np.sqrt(second / self.num_slices)),
            **{f"coverage_{100 * level:.0f}": share for level, share in zip(LEVELS, shares, strict=True)},
        }

    def _project(self, x: Tensor) -> Iterator[Sorted]:
        """Yield the sorted projections of ``x``, (chunk, N) at a time."""
        points = np.ascontiguousarray((x.double() - self._centre).to("cpu", torch.float32).numpy().T)
        for start in range(0, self.num_slices, self.chunk):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, start]))
            count = min(self.chunk, self.num_slices - start)
            directions = rng.standard_normal((count, len(points)), dtype=np.float32)
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            projections: Sorted = directions @ points
            projections.sort(axis=1)
            yield projections


def _quantile_gaps(a: Sorted, b: Sorted) -> tuple[Sorted, Sorted]:
    """Return the difference of the two quantile functions, (slices, P), on P pieces and their widths (P,)."""
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return a - b, np.full(n, 1 / n, np.float32)
    # integers, so that steps of the two that coincide are one
    steps = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    piece = steps[:-1]
    return a[:, piece // m] - b[:, piece // n], (np.diff(steps) / (n * m)).astype(np.float32)


def _covered(ours: Sorted, theirs: Sorted, level: float) -> float:
    """Return the share of ``theirs`` in the central interval of ``ours``, summed over slices.

    The ends lie at rank q (N + 1) between order statistics, below which a share q is expected of any distribution.
    """
    n = ours.shape[1]
    low, high = (_order_statistic(ours, q * (n + 1) - 1) for q in ((1 - level) / 2, (1 + level) / 2))
    return float(((theirs >= low) & (theirs <= high)).mean(1).sum())


def _order_statistic(ascending: Sorted, position: float) -> Sorted:
    """Return the value at a fractional index of each row, (slices, 1)."""
    position = min(max(position, 0.0), ascending.shape[1] - 1.0)
    below = int(position)
    above = min(below + 1, ascending.shape[1] - 1)
    value: Sorted = ascending[:, below] + np.float32(position - below) * (ascending[:, above] - ascending[:, below])
    return value[:, None]

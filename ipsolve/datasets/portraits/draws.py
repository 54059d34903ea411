"""Random draws of a portrait: pure functions of (seed, index, position in the stream).

The position of a draw in the stream defines which number a trait gets, so the order in which the traits are drawn
*is* the data set: every part of a portrait lists its draws in one dataclass, in stream order, and
:mod:`~ipsolve.datasets.portraits.render` lists the parts. Inserting a draw anywhere but at the end changes all images.

The hash is the finaliser of SplitMix64 (Steele, Lea & Flood 2014) on a linear combination of the three inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Colour = tuple[float, float, float]

NUM_SCALARS = 256  # draws available to the traits of one portrait
FIRST_GRID = 1 << 20  # stream position of the first noise grid; grids are GRID_STRIDE apart
GRID_STRIDE = 1 << 16

_INDEX = np.uint64(0x9E3779B97F4A7C15)
_POSITION = np.uint64(0xD1B54A32D192ED03)
_SEED = np.uint64(0x8CB92BA72F3D8DD7)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash_uniform(seed: int, indices: NDArray[np.int64], positions: NDArray[np.int64]) -> Tensor:
    """Return U[0, 1) numbers of 24 bits, (len(indices), len(positions)) float32."""
    with np.errstate(over="ignore"):
        z = indices.astype(np.uint64)[:, None] * _INDEX + positions.astype(np.uint64)[None] * _POSITION
        z = z + np.uint64(seed + 1) * _SEED
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


class Draws:
    """The streams of a batch of portraits. Each call advances all of them alike.

    Numbers come as (B, 1, 1), colours as (B, 3, 1, 1), noise fields as (B, size, size).
    """

    def __init__(self, seed: int, indices: NDArray[np.int64], size: int) -> None:
        self._seed, self._indices, self._size = seed, indices, size
        self._scalars = hash_uniform(seed, indices, np.arange(NUM_SCALARS))
        self._next_scalar = 0
        self._next_grid = FIRST_GRID

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw from U[low, high), (B, 1, 1)."""
        value = self._scalars[:, self._next_scalar].view(-1, 1, 1) * (high - low) + low
        self._next_scalar += 1
        return value

    def bell(self, std: float) -> Tensor:
        """Draw a roughly normal number (three uniforms) of the given standard deviation, (B, 1, 1)."""
        return (self.uniform() + self.uniform() + self.uniform() - 1.5) * (2.0 * std)

    def chance(self, probability: float) -> Tensor:
        """Draw 1 with the given probability, else 0, (B, 1, 1) float32."""
        return (self.uniform() < probability).float()

    def colour(self, palette: Sequence[Colour], jitter: float) -> Tensor:
        """Draw a colour of the palette, each channel moved by up to ``jitter`` and clipped, (B, 3, 1, 1)."""
        table = torch.tensor(palette, dtype=torch.float32)
        row = (self.uniform().view(-1) * len(palette)).long().clamp(max=len(palette) - 1)
        shift = torch.stack([self.uniform(-jitter, jitter).view(-1) for _ in range(3)], 1)
        return (table[row] + shift).clamp(0, 1).view(-1, 3, 1, 1)

    def noise(self, rows: int, columns: int, mode: str = "bicubic") -> Tensor:
        """Draw a grid of U[-1, 1) and interpolate it over the image, (B, size, size)."""
        positions = self._next_grid + np.arange(rows * columns)
        self._next_grid += GRID_STRIDE
        grid = hash_uniform(self._seed, self._indices, positions).view(-1, 1, rows, columns) * 2 - 1
        return F.interpolate(grid, size=(self._size, self._size), mode=mode, align_corners=True)[:, 0]

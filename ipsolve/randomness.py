"""Randomness that belongs to an image, not to a batch.

Every random number is a pure function of (seed, image_id, role, position in the stream). It therefore depends
neither on the batch size nor on order, actors or restarts, and the same numbers come out on CPU and GPU.
The generator is counter based (SplitMix64, Steele, Lea & Flood 2014) and evaluated for the whole batch at once,
so that drawing for B images costs one vectorised call instead of B generators.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch has no unsigned 64-bit shift: shift arithmetically, then clear the copies of the sign bit
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _key(*parts: object) -> int:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class ImageRng:
    """One stream of random numbers for each image of a batch.

    A draw of shape ``(c, h, w)`` returns ``(B, c, h, w)`` and advances all streams alike. Code whose number of
    draws depends on an image (a loop that stops per image) must draw from a ``child``, which leaves the parent
    where it was.

    Args:
        keys: (B,) int64, the start of each stream. Use :func:`image_rng` to derive them from image ids.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._position = 0

    @property
    def batch_size(self) -> int:
        return self.keys.shape[0]

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def child(self, label: object) -> ImageRng:
        """Return fresh, independent streams named ``label``: a function of the keys and the label alone."""
        return ImageRng(_mix(self.keys ^ _key("child", label)))

    def select(self, rows: Tensor) -> ImageRng:
        """Return the streams of some images, at the present position."""
        chosen = ImageRng(self.keys[rows])
        chosen._position = self._position
        return chosen

    def repeat(self, count: int, first: int = 0) -> ImageRng:
        """Return ``count`` streams for each image, side by side, at the present position: its own and others.

        Stream 0 is the image's own; stream j > 0 is named by j alone.
        """
        streams = [self.keys if j == 0 else self.child(f"sample {j}").keys for j in range(first, first + count)]
        repeated = ImageRng(torch.stack(streams, 1).flatten())
        repeated._position = self._position
        return repeated

    def _bits(self, count: int) -> Tensor:
        index = torch.arange(self._position + 1, self._position + count + 1, device=self.device)
        self._position += count
        return _mix(self.keys[:, None] + index[None] * _GOLDEN)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw from U[0, 1), shape (B, *shape)."""
        bits = _shift_right(self._bits(math.prod(shape)), 11)  # 53 bits
        # float32 would round 1 - 2^-53 up to 1, so fewer bits are kept for it
        unit = bits.double() * 2.0**-53 if dtype == torch.float64 else (bits >> 29).double() * 2.0**-24
        return unit.to(dtype).reshape(-1, *shape)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw from N(0, 1), shape (B, *shape), by the Box-Muller transform in float64 (both outputs are used)."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        radius = (-2 * ((_shift_right(bits, 32).double() + 1) * 2.0**-32).log()).sqrt()
        angle = (bits & 0xFFFFFFFF).double() * (2 * math.pi * 2.0**-32)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)
        return pairs[:, :count].to(dtype).reshape(-1, *shape)

    def permutation(self, n: int) -> Tensor:
        """Draw a permutation of 0..n-1 per image, (B, n) int64."""
        return self._bits(n).argsort(dim=1, stable=True)

    def numpy_generators(self) -> list[np.random.Generator]:
        """Return one NumPy generator per image, for one-off draws that torch lacks (Poisson, point processes)."""
        keys = self._bits(1)[:, 0].tolist()
        return [np.random.Generator(np.random.Philox(key=key % 2**64)) for key in keys]


def image_rng(seed: int, image_ids: Sequence[str], role: str, device: torch.device | str = "cpu") -> ImageRng:
    """Return the streams of a batch of images for one role.

    Args:
        seed: the seed of the run.
        image_ids: B identifiers.
        role: what the numbers are for: ``measurement``, ``operator`` (masks, kernels) or ``solver``.
        device: where draws are made.
    """
    keys = [_key(seed, image_id, role) for image_id in image_ids]
    return ImageRng(torch.tensor(keys, dtype=torch.int64, device=device))

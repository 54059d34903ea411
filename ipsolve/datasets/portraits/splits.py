"""The procedural portraits as a data source with splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.portraits.render import MIN_SIZE, render
from ipsolve.requests.errors import RequestError, did_you_mean

SPLIT_LENGTH = 1_000_000
SPLITS = {"train": 0, "val": SPLIT_LENGTH, "test": 2 * SPLIT_LENGTH}  # first portrait of each; disjoint ranges
GENERATOR_VERSION = 1  # to be raised by any change that changes the images


@dataclass(frozen=True)
class Portraits(Source):
    """One split of the portraits, a million images that are computed when asked for.

    Args:
        split: ``train``, ``val`` or ``test``; each is its own range of portrait numbers.
        seed: the population; the built-in prior was trained on 0.

    Raises:
        RequestError: unknown split.
    """

    split: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            hint = did_you_mean(self.split, SPLITS)
            raise RequestError(
                "data.source", f"portraits has no split {self.split!r}{hint}; allowed: {', '.join(SPLITS)}"
            )

    def __len__(self) -> int:
        return SPLIT_LENGTH

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        population = "portraits" if self.seed == 0 else f"portraits-seed{self.seed}"
        return [f"{population}/{self.split}/{index:06d}" for index in indices]

    def load(self, index: int, size: int) -> Image:
        image = self.load_batch([index], size)[0]
        if isinstance(image, ImageError):
            raise image
        return image

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        if size < MIN_SIZE:
            return [ImageError(f"portraits are at least {MIN_SIZE} pixels wide, not {size}") for _ in indices]
        numbers = np.asarray(indices, dtype=np.int64)
        if np.any((numbers < 0) | (numbers >= SPLIT_LENGTH)):
            raise IndexError(f"portraits/{self.split} has indices 0 to {SPLIT_LENGTH - 1}")
        images = render(numbers + SPLITS[self.split], size, self.seed).permute(0, 2, 3, 1)
        return list((images * 255).round().byte().numpy())

    def describe(self) -> dict[str, str | int]:
        version = digest(["portraits", GENERATOR_VERSION, self.split, self.seed])
        return {"kind": "portraits", "split": self.split, "seed": self.seed, "n": len(self), "digest": version}

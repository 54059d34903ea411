"""Images that do harm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ipsolve.datasets import Source
from ipsolve.datasets.base import Image


@dataclass(frozen=True)
class Deadly(Source):
    """A source of which one image ends the process that reads it, as a fault in a decoder does."""

    source: Source
    deadly: int

    def __len__(self) -> int:
        return len(self.source)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return self.source.image_ids(indices)

    def load(self, index: int, size: int) -> Image:
        if index == self.deadly:
            os._exit(1)
        return self.source.load(index, size)

    def describe(self) -> dict[str, str | int]:
        return self.source.describe()

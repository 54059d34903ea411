"""What a source of images is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8] | NDArray[np.float32]  # of a photograph, (H, W, 3); or another signal, of its shape


class ImageError(ValueError):
    """One image cannot be read; its message is the reason, in one line. The others are not affected."""


class Source(ABC):
    """An ordered, finite collection of images, read by index.

    A source is cheap to construct and to pickle: it holds names, never pixels.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images, readable or not."""

    @abstractmethod
    def image_ids(self, indices: Sequence[int]) -> list[str]:
        """Return the identifiers of some images: unique in the source, the same on every machine."""

    @abstractmethod
    def load(self, index: int, size: int) -> Image:
        """Return one image as RGB, (size, size, 3) uint8.

        Raises:
            ImageError: the image cannot be read.
        """

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        """Return images in the order of ``indices``; in the place of an unreadable one stands its error."""
        loaded: list[Image | ImageError] = []
        for index in indices:
            try:
                loaded.append(self.load(index, size))
            except ImageError as error:
                loaded.append(error)
        return loaded

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        """Return the words that some images come with; None for each that has none, as all where none are asked for.

        Args:
            negative: those of ``data.negative_captions``, what an image is not to show, in place of ``data.captions``.
        """
        return [None] * len(indices)

    def left_out(self) -> dict[str, int]:
        """Return how many files the source passed over when it was listed, by why (``hidden``, ``.txt``)."""
        return {}

    @abstractmethod
    def describe(self) -> dict[str, str | int]:
        """Return what a run records of its data: ``kind``, ``n``, ``digest`` and what defines the source."""


def digest(parts: Iterable[object]) -> str:
    """Return 16 hexadecimal digits that change when any of ``parts`` (or their order) changes."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(f"{part}\x1f".encode())
    return state.hexdigest()

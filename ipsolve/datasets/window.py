"""A source from some image on: what one cluster of several does, or one more helping of validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipsolve.datasets.base import Image, ImageError, Source
from ipsolve.requests.errors import RequestError


@dataclass(frozen=True)
class Window(Source):
    """The images of ``source`` from number ``offset`` on, under their own identifiers.

    Raises:
        RequestError: there are no images that far.
    """

    source: Source
    offset: int

    def __post_init__(self) -> None:
        if self.offset >= len(self.source):
            raise RequestError("data.offset", f"must be below {len(self.source)}, the number of images")

    def __len__(self) -> int:
        return len(self.source) - self.offset

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return self.source.image_ids([index + self.offset for index in indices])

    def load(self, index: int, size: int) -> Image:
        return self.source.load(index + self.offset, size)

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        return self.source.load_batch([index + self.offset for index in indices], size)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        return self.source.captions([index + self.offset for index in indices], negative)

    def left_out(self) -> dict[str, int]:
        return self.source.left_out()

    def describe(self) -> dict[str, str | int]:
        return {**self.source.describe(), "offset": self.offset}

"""Image files: one image per file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipsolve.datasets.base import Image, Source, digest
from ipsolve.datasets.captions import Captions
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.listed import Listed

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class ImageFiles(Source):
    """The centred square of each file, resized (see :mod:`ipsolve.datasets.decoding`)."""

    files: Listed
    words: Captions | None = None
    negative_words: Captions | None = None

    def __len__(self) -> int:
        return len(self.files)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return [self.files.name(index) for index in indices]

    def load(self, index: int, size: int) -> Image:
        return centre_square(read_rgb(self.files.image(index)), size)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        words = self.negative_words if negative else self.words
        return [None if words is None else words.of(index) for index in indices]

    def left_out(self) -> dict[str, int]:
        read = (words for words in (self.words, self.negative_words) if words is not None)
        used = {ending for words in read for ending in words.endings}
        return {why: count for why, count in self.files.left_out.items() if why not in used}

    def describe(self) -> dict[str, str | int]:
        return {"kind": "files", "n": len(self), "digest": digest(self.files.facts())}

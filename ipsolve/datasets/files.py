"""Image files: one image per file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipsolve.datasets.base import Image, Source, digest
from ipsolve.datasets.decoding import centre_square, read_rgb

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ImageFiles(Source):
    """The centred square of each file, resized (see :mod:`ipsolve.datasets.decoding`).

    Args:
        root: the folder that identifiers are relative to.
        paths: the files, in order.
    """

    root: Path
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return [name(self.root, self.paths[index]) for index in indices]

    def load(self, index: int, size: int) -> Image:
        return centre_square(read_rgb(self.paths[index]), size)

    def describe(self) -> dict[str, str | int]:
        return {"kind": "files", "n": len(self), "digest": digest(file_facts(self.root, self.paths))}


def name(root: Path, path: Path) -> str:
    """Return the path of a file relative to ``root``, with forward slashes."""
    return path.relative_to(root).as_posix()


def file_facts(root: Path, paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Return (name, bytes) of each file: what a digest can know of them without reading them."""
    return [(name(root, path), path.stat().st_size if path.exists() else -1) for path in paths]

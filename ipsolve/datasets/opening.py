"""From the words of a configuration to a data source."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.datasets.base import Source
from ipsolve.datasets.files import IMAGE_SUFFIXES, ImageFiles
from ipsolve.datasets.huggingface import HuggingFaceSource
from ipsolve.datasets.parquet import ParquetImages
from ipsolve.datasets.portraits import Portraits
from ipsolve.datasets.tiles import TiledImages
from ipsolve.datasets.window import Window
from ipsolve.errors import RequestError
from ipsolve.validation import build


@dataclass(frozen=True, config={"extra": "forbid"})
class SourceSpec:
    """The keys that describe a source.

    ``tile``: cut each photograph into tiles of this many pixels (true: the prior's size) instead of one centre
    crop; ``downscale``: shrink it by this factor first. ``image_column``, ``id_column``: for Parquet, where the
    names do not tell. ``offset``: leave out so many images at the front. ``limit`` belongs to whoever iterates and is
    let through.
    """

    source: str
    offset: Annotated[int, Field(ge=0)] = 0
    limit: int | None = None
    tile: bool | Annotated[int, Field(ge=8)] = False
    downscale: Annotated[float, Field(ge=1)] = 1.0
    image_column: str | None = None
    id_column: str | None = None


def open_source(spec: str | Mapping[str, Any], size: int | None = None) -> Source:
    """Return the source that ``spec`` names.

    Args:
        spec: ``portraits:SPLIT``, a folder or glob of images, a Parquet file, folder or glob, ``hf:ORG/NAME:SPLIT``;
            or a mapping with that under ``source`` and the options of :class:`SourceSpec`.
        size: the prior's image size, which ``tile: true`` needs.

    Raises:
        RequestError: one line that names the key and what is allowed.
    """
    request = build(SourceSpec, {"source": spec} if isinstance(spec, str) else spec, "data")
    source = _open(request, size)
    return Window(source, request.offset) if request.offset else source


def _open(request: SourceSpec, size: int | None) -> Source:
    scheme, _, rest = request.source.partition(":")
    if scheme == "portraits":
        _reject(request, ("tile", "downscale", "image_column", "id_column"), "portraits")
        return Portraits(rest)
    if scheme == "hf":
        _reject(request, ("tile", "downscale", "id_column"), "hf: data sets")
        return HuggingFaceSource.parse(rest, request.image_column)
    root, images, tables = _find(request.source)
    if tables:
        _reject(request, ("tile", "downscale"), "Parquet")
        return ParquetImages(root, tables, request.image_column, request.id_column)
    _reject(request, ("image_column", "id_column"), "image files")
    if request.tile:
        return TiledImages(root, images, _tile_size(request.tile, size), request.downscale)
    _reject(request, ("downscale",), "image files without tile")
    return ImageFiles(root, images)


def _reject(request: SourceSpec, keys: tuple[str, ...], kind: str) -> None:
    for key in keys:
        if getattr(request, key) != getattr(SourceSpec, key):
            raise RequestError(f"data.{key}: has no meaning for {kind} (source {request.source})")


def _tile_size(tile: bool | int, size: int | None) -> int:
    if tile is not True:
        return int(tile)
    if size is None:
        raise RequestError("data.tile: true takes the prior's size, which is not known here; give the pixels, tile: 64")
    return size


def _find(source: str) -> tuple[Path, list[Path], list[Path]]:
    """Return (the folder that names are relative to, image files, Parquet files), sorted; one of the lists is empty."""
    path = Path(source).expanduser()
    if path.is_dir():
        root, found = path, [p for p in path.rglob("*") if p.is_file()]
    elif path.is_file():
        root, found = path.parent, [path]
    elif glob.has_magic(source):
        fixed = []
        for part in path.parts[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
        root = Path(*fixed)
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
    else:
        raise RequestError(
            f"data.source: {source} does not exist; allowed: portraits:SPLIT, a folder, glob or file, hf:NAME:SPLIT"
        )
    # sorted by parts joined with "/", so that the order is that of the image ids on every system
    found = sorted((p for p in found if not p.name.startswith(".")), key=lambda p: p.relative_to(root).as_posix())
    images = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    tables = [p for p in found if p.suffix.lower() == ".parquet"]
    if images and tables:
        raise RequestError(
            f"data.source: {source} holds both images and Parquet; use a glob such as *.png or *.parquet"
        )
    if not images and not tables:
        suffixes = ", ".join([*IMAGE_SUFFIXES, ".parquet"])
        raise RequestError(f"data.source: no images in {source}; read are files ending in {suffixes}")
    return root, images, tables

"""From the words of a configuration to a data source."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.datasets.arrays import ARRAY_SUFFIXES, GRAY_SUFFIXES, ArrayFiles, Reading, check_range
from ipsolve.datasets.base import Source
from ipsolve.datasets.files import IMAGE_SUFFIXES, ImageFiles
from ipsolve.datasets.huggingface import HuggingFaceSource
from ipsolve.datasets.listed import Listed, LocalFiles, list_uri
from ipsolve.datasets.parquet import ParquetImages
from ipsolve.datasets.portraits import Portraits
from ipsolve.datasets.tiles import TiledImages
from ipsolve.datasets.walking import walk
from ipsolve.datasets.window import Window
from ipsolve.files.filesystems import is_uri
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.signal import Signal

TABLE_SUFFIX = ".parquet"


@dataclass(frozen=True, config={"extra": "forbid"})
class SourceSpec:
    """The keys that describe a source.

    ``tile``: cut each photograph into tiles of this many pixels (true: the prior's size) instead of one centre
    crop; ``downscale``: shrink it by this factor first. ``image_column``, ``id_column``: for Parquet, where the
    names do not tell. ``value_range``: of numbers, see :mod:`ipsolve.datasets.arrays`. ``offset``: leave out so many
    images at the front. ``limit`` belongs to whoever iterates and is let through.
    """

    source: Annotated[str, Field(min_length=1)]
    offset: Annotated[int, Field(ge=0, strict=True)] = 0
    limit: Annotated[int, Field(strict=True)] | None = None
    tile: bool | Annotated[int, Field(ge=8)] = False
    downscale: Annotated[float, Field(ge=1)] = 1.0
    image_column: str | None = None
    id_column: str | None = None
    value_range: tuple[float, float] | None = None


def open_source(spec: str | Mapping[str, Any], size: int | None = None, signal: Signal | None = None) -> Source:
    """Return the source that ``spec`` names.

    Args:
        spec: ``portraits:SPLIT``, a folder or glob of images, a Parquet file, folder or glob, ``hf:ORG/NAME:SPLIT``,
            the URI of a file or folder in a store such as ``s3://bucket/photos``; or a mapping with that under
            ``source`` and the options of :class:`SourceSpec`.
        size: the prior's image size, which ``tile: true`` needs.
        signal: what is to be read, photographs if left out.

    Raises:
        RequestError: one line that names the key and what is allowed.
    """
    request = build(SourceSpec, {"source": spec} if isinstance(spec, str) else spec, "data")
    photographs = signal is None or signal.kind == "rgb"
    source = _open(request, size) if photographs else _open_arrays(request, signal)
    return Window(source, request.offset) if request.offset else source


def _open(request: SourceSpec, size: int | None) -> Source:
    scheme, _, rest = request.source.partition(":")
    _reject(request, ("value_range",), "photographs")
    if scheme == "portraits":
        _reject(request, ("tile", "downscale", "image_column", "id_column"), "portraits")
        return Portraits(rest)
    if scheme == "hf":
        _reject(request, ("tile", "downscale", "id_column"), "hf: data sets")
        return HuggingFaceSource.parse(rest, request.image_column)
    files, are_tables = _stored(request.source) if is_uri(request.source) else _local(request.source)
    if are_tables:
        _reject(request, ("tile", "downscale"), "Parquet")
        return ParquetImages(files, request.image_column, request.id_column)
    _reject(request, ("image_column", "id_column"), "image files")
    if request.tile:
        if not isinstance(files, LocalFiles):
            raise RequestError(
                "data.tile", "photographs are cut on a local disk only; copy them there, or leave tile out"
            )
        return TiledImages(files, _tile_size(request.tile, size), request.downscale)
    _reject(request, ("downscale",), "image files without tile")
    return ImageFiles(files)


def _open_arrays(request: SourceSpec, signal: Signal | None) -> Source:
    assert signal is not None
    check_range(request.value_range)
    kind = f"{signal.kind} signals"
    if request.source.partition(":")[0] in ("portraits", "hf"):
        raise RequestError("data.source", f"{request.source} holds rgb photographs, and the prior is of {kind}")
    _reject(request, ("tile", "downscale"), kind)
    suffixes = (*ARRAY_SUFFIXES, *(GRAY_SUFFIXES if signal.kind == "gray" else ()))
    files, are_tables = (_stored if is_uri(request.source) else _local)(request.source, suffixes)
    reading = Reading(signal, request.value_range)
    if are_tables:
        return ParquetImages(files, request.image_column, request.id_column, reading)
    _reject(request, ("image_column", "id_column"), "array files")
    return ArrayFiles(files, reading)


def _reject(request: SourceSpec, keys: tuple[str, ...], kind: str) -> None:
    for key in keys:
        if getattr(request, key) != getattr(SourceSpec, key):
            raise RequestError(f"data.{key}", f"has no meaning for {kind} (source {request.source})")


def _tile_size(tile: bool | int, size: int | None) -> int:
    if tile is not True:
        return int(tile)
    if size is None:
        raise RequestError(
            "data.tile", "true takes the prior's size, which is not known here; give the pixels, tile: 64"
        )
    return size


def _stored(source: str, wanted: Sequence[str] = IMAGE_SUFFIXES) -> tuple[Listed, bool]:
    """Return the files of a URI, and whether they are Parquet."""
    if glob.has_magic(source.partition("?")[0]):
        raise RequestError(
            "data.source", f"a URI takes no glob (got {source}); allowed: a file, or all that is in a folder"
        )
    files = list_uri(source, (*wanted, TABLE_SUFFIX))
    if isinstance(files, Path):
        return _local(str(files), wanted)
    return files, _are_tables(source, [PurePosixPath(name) for name in files.names], wanted)


def _local(source: str, wanted: Sequence[str] = IMAGE_SUFFIXES) -> tuple[LocalFiles, bool]:
    """Return the files of a path or glob, and whether they are Parquet."""
    path = Path(source).expanduser()
    if path.is_dir():
        root, found = path, list(walk(path))
    elif path.is_file():
        root, found = path.parent, [path]
    elif glob.has_magic(source):
        fixed = []
        for part in path.parts[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
        root = Path(*fixed)
        found = list(walk(root, path.parts[len(fixed) :]))
    else:
        raise RequestError(
            "data.source",
            f"{source} does not exist; allowed: portraits:SPLIT, a folder, glob, file or URI, hf:NAME:SPLIT",
        )
    # sorted by parts joined with "/", so that the order is that of the image ids on every system
    found = sorted((p for p in found if not p.name.startswith(".")), key=lambda p: p.relative_to(root).as_posix())
    are_tables = _are_tables(source, found, wanted)
    suffixes = (TABLE_SUFFIX,) if are_tables else tuple(wanted)
    return LocalFiles(root, [p for p in found if p.suffix.lower() in suffixes]), are_tables


def _are_tables(source: str, found: Iterable[PurePath], wanted: Sequence[str]) -> bool:
    suffixes = (*wanted, TABLE_SUFFIX)
    kinds = {path.suffix.lower() == TABLE_SUFFIX for path in found if path.suffix.lower() in suffixes}
    if not kinds:
        raise RequestError("data.source", f"no images in {source}; read are files ending in {', '.join(suffixes)}")
    if len(kinds) > 1:
        raise RequestError(
            "data.source", f"{source} holds both images and Parquet; use a glob such as *.png or *.parquet"
        )
    return kinds.pop()

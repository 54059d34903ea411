"""From the words of a configuration to a data source."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.datasets.arrays import ArrayFiles
from ipsolve.datasets.base import Source
from ipsolve.datasets.captions import beside
from ipsolve.datasets.containers import ARRAY_SUFFIXES, GRAY_SUFFIXES, PAGED, Opening
from ipsolve.datasets.containers.dicom import is_dicom, may_be_dicom
from ipsolve.datasets.files import IMAGE_SUFFIXES, ImageFiles
from ipsolve.datasets.huggingface import HuggingFaceSource, parse
from ipsolve.datasets.listed import Listed, LocalFiles, ending, list_uri
from ipsolve.datasets.parquet import ParquetImages
from ipsolve.datasets.portraits import Portraits
from ipsolve.datasets.reading import Reading, check_range
from ipsolve.datasets.streamed import Opener, stream
from ipsolve.datasets.tars import TAR_SUFFIX, TarImages
from ipsolve.datasets.tiles import TiledImages
from ipsolve.datasets.walking import walk
from ipsolve.datasets.window import Window
from ipsolve.files.filesystems import is_uri
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.signal import Signal

TABLE_SUFFIX = ".parquet"
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_CAPTIONS = ("captions", "negative_captions")
_KINDS = {TABLE_SUFFIX: "Parquet", TAR_SUFFIX: "tars", "": "images"}


@dataclass(frozen=True, config={"extra": "forbid"})
class SourceSpec:
    """The keys that describe a source.

    Args:
        tile: cut each photograph into tiles of this many pixels (true: the prior's size) instead of one centre crop.
        downscale: shrink it by this factor before that.
        image_column: for Parquet and ``hf:``, where the names do not tell; in tars what an image's name ends in.
        id_column: of Parquet, likewise.
        captions: what images come with: a column (Parquet, ``hf:``), a key of ``metadata.jsonl`` (folders) or of the
            ``.json`` of a sample (tars), or ``txt``, the text file of the image's name; null, nothing. They are
            prompts of a prior that is told a text.
        negative_captions: likewise what they are not to show; ``txt`` is ``NAME.negative.txt``. Negative prompts.
        streaming: read the files of a ``hf:`` data set where they lie.
        dataset: of HDF5, see :mod:`ipsolve.datasets.containers.hdf5`; ``coils``: of k-space in it.
        value_range: of numbers, see :mod:`ipsolve.datasets.reading`; ``max``: the largest in the file is 1.
        offset: leave out so many images at the front.
        limit: belongs to whoever iterates and is let through.
    """

    source: Annotated[str, Field(min_length=1)]
    offset: Annotated[int, Field(ge=0, strict=True)] = 0
    limit: Annotated[int, Field(strict=True)] | None = None
    tile: bool | Annotated[int, Field(ge=8)] = False
    downscale: Annotated[float, Field(ge=1)] = 1.0
    image_column: str | None = None
    id_column: str | None = None
    captions: str | None = None
    negative_captions: str | None = None
    streaming: bool = False
    dataset: str | None = None
    coils: Literal["rss"] | None = None
    value_range: tuple[float, float] | Literal["max"] | None = None


def open_source(spec: str | Mapping[str, Any], size: int | None = None, signal: Signal | None = None) -> Source:
    """Return the source that ``spec`` names.

    Args:
        spec: ``portraits:SPLIT``; a folder, glob or file of images, of Parquet or of tars; ``hf:ORG/NAME:SPLIT``;
            the URI of a file or folder in a store such as ``s3://bucket/photos``; or a mapping with that under
            ``source`` and the options of :class:`SourceSpec`. docs/data.md has all that is read.
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
    _reject(request, ("value_range", "dataset", "coils"), "photographs")
    if scheme == "portraits":
        _reject(request, ("tile", "downscale", "image_column", "id_column", *_CAPTIONS, "streaming"), "portraits")
        return Portraits(rest)
    if scheme == "hf" and not is_uri(request.source):
        return _open_hub(request, rest, IMAGE_SUFFIXES)
    _reject(request, ("streaming",), "all but hf: data sets")
    files, kind = _found(request.source, IMAGE_SUFFIXES)
    if kind:
        return _open_tables(request, files, kind, IMAGE_SUFFIXES)
    _reject(request, ("image_column", "id_column"), "image files")
    if request.tile:
        _reject(request, _CAPTIONS, "tiles")
        if not isinstance(files, LocalFiles):
            raise RequestError(
                "data.tile", "photographs are cut on a local disk only; copy them there, or leave tile out"
            )
        return TiledImages(files, _tile_size(request.tile, size), request.downscale)
    _reject(request, ("downscale",), "image files without tile")
    return _image_files(request, files)


def _image_files(request: SourceSpec, files: Listed) -> ImageFiles:
    asked = (request.captions, request.negative_captions)
    words = (None if key is None else beside(files, key, bool(negative)) for negative, key in enumerate(asked))
    return ImageFiles(files, *words)


def _open_tables(
    request: SourceSpec, files: Listed, kind: str, suffixes: Sequence[str], reading: Reading | None = None
) -> Source:
    """Return the images in Parquet files or tars."""
    _reject(request, ("tile", "downscale", "dataset", "coils"), _KINDS[kind])
    if request.value_range == "max":
        raise RequestError("data.value_range", f"max is of files of arrays, not of {_KINDS[kind]}; give [low, high]")
    if kind == TABLE_SUFFIX:
        captions = (request.captions, request.negative_captions)
        return ParquetImages(files, request.image_column, request.id_column, reading, *captions)
    _reject(request, ("id_column",), _KINDS[kind])
    return TarImages(files, suffixes, request.image_column, request.captions, reading, request.negative_captions)


def _open_hub(request: SourceSpec, rest: str, suffixes: Sequence[str], reading: Reading | None = None) -> Source:
    _reject(request, ("tile", "downscale", "id_column", "dataset", "coils"), "hf: data sets")
    repository, split = parse(rest)
    if not request.streaming:
        return HuggingFaceSource(
            repository, split, request.image_column, request.captions, reading, request.negative_captions
        )

    def tables(kind: str) -> Opener:
        return lambda files: _open_tables(request, files, kind, suffixes, reading)

    openers: dict[str, tuple[tuple[str, ...], Opener]]
    openers = {"parquet": ((TABLE_SUFFIX,), tables(TABLE_SUFFIX)), "webdataset": ((TAR_SUFFIX,), tables(TAR_SUFFIX))}
    if reading is None:
        openers["imagefolder"] = (IMAGE_SUFFIXES, lambda files: _image_files(request, files))
    return stream(repository, split, openers)


def _open_arrays(request: SourceSpec, signal: Signal | None) -> Source:
    assert signal is not None
    given = request.value_range
    bounds = given if isinstance(given, tuple) else None
    check_range(bounds)
    kind, reading = f"{signal.kind} signals", Reading(signal, bounds)
    pictures = (*GRAY_SUFFIXES, *PAGED) if signal.kind == "gray" else ()
    scheme, _, rest = request.source.partition(":")
    if scheme == "hf" and not is_uri(request.source) and signal.kind == "gray":
        return _open_hub(request, rest, pictures, reading)
    if scheme == "portraits" or (scheme == "hf" and not is_uri(request.source)):
        raise RequestError("data.source", f"{request.source} holds rgb photographs, and the prior is of {kind}")
    _reject(request, ("tile", "downscale", "streaming"), kind)
    suffixes = (*ARRAY_SUFFIXES, *(GRAY_SUFFIXES if signal.kind == "gray" else ()))
    files, of_tables = _found(request.source, suffixes, dicom=True)
    if of_tables:
        return _open_tables(request, files, of_tables, (".npy", *pictures), reading)
    _reject(request, ("image_column", "id_column", *_CAPTIONS), "array files")
    return ArrayFiles(files, reading, Opening(request.dataset, request.coils), given == "max")


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


def _found(source: str, wanted: Sequence[str], dicom: bool = False) -> tuple[Listed, str]:
    """Return the files of a source, and which kind of file holds its images: Parquet, tars or (empty) one each."""
    return _stored(source, wanted, dicom) if is_uri(source) else _local(source, wanted, dicom)


def _stored(source: str, wanted: Sequence[str], dicom: bool) -> tuple[Listed, str]:
    if glob.has_magic(source.partition("?")[0]):
        raise RequestError(
            "data.source", f"a URI takes no glob (got {source}); allowed: a file, or all that is in a folder"
        )
    files = list_uri(source, (*wanted, TABLE_SUFFIX, TAR_SUFFIX))
    if isinstance(files, Path):
        return _local(str(files), wanted, dicom)
    return files, _kind_of(source, [PurePosixPath(name) for name in files.names], wanted)


def _local(source: str, wanted: Sequence[str], dicom: bool) -> tuple[LocalFiles, str]:
    path, left_out = Path(source).expanduser(), Counter[str]()
    if path.is_dir():
        root, found = path, list(walk(path, left_out=left_out))
    elif path.is_file():
        root, found = path.parent, [path]
        if path.name.lower().endswith(_COMPRESSED_TARS):
            raise RequestError("data.source", f"{source} is a compressed tar, which cannot be read in parts; unpack it")
    elif glob.has_magic(source):
        fixed = []
        for part in path.parts[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
        root = Path(*fixed)
        found = list(walk(root, path.parts[len(fixed) :], left_out))
    else:
        raise RequestError(
            "data.source",
            f"{source} does not exist; allowed: portraits:SPLIT, a folder, glob, file or URI, hf:NAME:SPLIT",
        )
    # sorted by parts joined with "/", so that the order is that of the image ids on every system
    found = sorted(found, key=lambda p: p.relative_to(root).as_posix())
    bare = {p for p in found if dicom and may_be_dicom(p.name) and is_dicom(p)}  # DICOM, most often, has no ending
    kind = _kind_of(source, [p for p in found if p not in bare], wanted, len(bare))
    suffixes = (kind,) if kind else tuple(wanted)
    taken = [p for p in found if p in bare or p.name.lower().endswith(suffixes)]
    left_out.update(ending(p.name) for p in set(found) - set(taken))
    return LocalFiles(root, taken, +left_out), kind


def _kind_of(source: str, found: Iterable[PurePath], wanted: Sequence[str], others: int = 0) -> str:
    kinds = {""} if others else set()
    for path in found:
        kinds |= {kind for kind in (TABLE_SUFFIX, TAR_SUFFIX) if path.name.lower().endswith(kind)}
        kinds |= {""} if path.name.lower().endswith(tuple(wanted)) else set()
    if not kinds:
        suffixes = (*wanted, TABLE_SUFFIX, TAR_SUFFIX)
        raise RequestError("data.source", f"no images in {source}; read are files ending in {', '.join(suffixes)}")
    if len(kinds) > 1:
        names = " and ".join(sorted(_KINDS[kind] for kind in kinds))
        globs = " or ".join(f"*{kind or next(iter(wanted))}" for kind in sorted(kinds))
        way = "give each a folder of its own" if is_uri(source) else f"use a glob such as {globs}"
        raise RequestError("data.source", f"{source} holds both {names}; {way}")
    return kinds.pop()

"""Images in tar files, as WebDataset lays them out: the files of a sample share a name up to its first dot."""

from __future__ import annotations

import bisect
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.captions import KEYS, SUFFIXES, TEXT_FILES, words
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.listed import Listed, ending
from ipsolve.datasets.reading import Reading
from ipsolve.datasets.walking import HIDDEN, is_hidden
from ipsolve.requests.errors import RequestError

TAR_SUFFIX = ".tar"
_THREADS = 16


class Member(NamedTuple):
    """Where the content of a file lies in a tar."""

    name: str
    start: int
    size: int


class TarImages(Source):
    """An image of each sample in uncompressed tar files, named ``FILE#MEMBER``.

    Only the headers in the tars are read when the source is made, and of an image its own bytes.

    Args:
        files: the tars, in order.
        suffixes: what an image ends in.
        image: which one of a sample's images, by all that follows the first dot of its name (``input.png``).
        captions: the key of the caption in the ``.json`` of a sample; ``txt``: its ``.txt``.
        negative_captions: likewise; ``txt``: its ``.negative.txt``.
        reading: of what are no photographs: npy files and gray images.

    Raises:
        RequestError: a file is no tar or a compressed one, there are no images in them, or several in a sample.
    """

    def __init__(
        self,
        files: Listed,
        suffixes: Sequence[str],
        image: str | None = None,
        captions: str | None = None,
        reading: Reading | None = None,
        negative_captions: str | None = None,
    ) -> None:
        self.files, self.reading, self.caption_keys = files, reading, (captions, negative_captions)
        self._wanted, self._suffixes = image and image.lower().strip("."), tuple(suffixes)
        self._last: tuple[int, Path | BinaryIO] | None = None
        self._left_out = Counter(files.left_out)
        self._members: list[Member] = []
        self._texts: tuple[dict[int, Member], ...] = ({}, {})  # of captions and negative ones, by the image's number
        ends = []
        with ThreadPoolExecutor(_THREADS) as pool:  # a store takes its time for each
            for members in pool.map(self._scan, range(len(files))):
                self._take(members)
                ends.append(len(self._members))
        self._ends = ends
        self._require_images()

    def _scan(self, file: int) -> list[Member]:
        where = self.files.where(file)
        try:
            opened = self.files.stream(file)
            with open(opened, "rb") if isinstance(opened, Path) else closing(opened) as stream:
                return list(_members(stream))
        except (tarfile.TarError, ImageError, EOFError) as error:
            why = str(error) or type(error).__name__
            raise RequestError("data.source", f"{where} is no whole, uncompressed tar: {why}") from None

    def _take(self, members: Sequence[Member]) -> None:
        """Note the images among the members of a tar, and which of them are captions."""
        texts: dict[str, dict[str, Member]] = {suffix: {} for suffix in self._text_suffixes if suffix}
        images: dict[str, list[Member]] = {}
        for member in members:
            key, suffix = _split(member.name)
            if is_hidden(member.name.removeprefix("./")):
                self._left_out[HIDDEN] += 1
            elif suffix in texts:
                texts[suffix][key] = member
            elif suffix == self._wanted if self._wanted else f".{suffix}".endswith(self._suffixes):
                images.setdefault(key, []).append(member)
            else:
                self._left_out[ending(member.name)] += 1
        for key, found in images.items():
            if len({_split(member.name)[1] for member in found}) > 1:
                there = ", ".join(sorted({_split(member.name)[1] for member in found}))
                raise RequestError("data.image_column", f"say which image of a sample is meant; {key!r} has: {there}")
            for member in found:
                for taken, text in zip(self._texts, self._text_suffixes, strict=True):
                    if text and key in texts[text]:
                        taken[len(self._members)] = texts[text][key]
                self._members.append(member)

    def _require_images(self) -> None:
        if not self._members:
            what = f"files ending in .{self._wanted}" if self._wanted else f"images ({', '.join(self._suffixes)})"
            there = ", ".join(f"{count} {name}" for name, count in self._left_out.most_common(5)) or "nothing"
            key = "data.image_column" if self._wanted else "data.source"
            raise RequestError(key, f"no {what} in the tars, such as {self.files.where(0)}; there are: {there}")
        for key, suffix, texts in zip(KEYS, self._text_suffixes, self._texts, strict=True):
            if suffix and not texts:
                raise RequestError(key, f"no image in {self.files.where(0)} has a .{suffix} of its name")

    @property
    def _text_suffixes(self) -> list[str | None]:
        """What the files of captions and of negative ones end in; None where none are asked for."""
        asked = zip(self.caption_keys, SUFFIXES, strict=True)
        return [suffix if key == TEXT_FILES else "json" if key else None for key, suffix in asked]

    def __len__(self) -> int:
        return len(self._members)

    def _file(self, index: int) -> int:
        return bisect.bisect_right(self._ends, index)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.files.name(self._file(index))}#{self._members[index].name}" for index in indices]

    def load(self, index: int, size: int) -> Image:
        content = self._read(index, self._members[index])
        if self.reading is not None:
            return self.reading.of_bytes(content)
        return centre_square(read_rgb(io.BytesIO(content)), size)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        return [self._caption(index, negative) for index in indices]

    def _caption(self, index: int, negative: bool) -> str | None:
        texts, wanted = self._texts[negative], self.caption_keys[negative]
        if index not in texts:
            return None
        text = words(self._read(index, texts[index]))
        if wanted == TEXT_FILES:
            return text
        try:
            found = json.loads(text)
        except ValueError:
            return None
        caption = found.get(wanted) if isinstance(found, Mapping) else None
        return None if caption is None else str(caption)

    def _read(self, index: int, member: Member) -> bytes:
        file = self._file(index)
        if self._last is None or self._last[0] != file:
            if self._last is not None and not isinstance(self._last[1], Path):
                self._last[1].close()
            self._last = file, self.files.stream(file)
        opened = self._last[1]
        try:
            with open(opened, "rb") if isinstance(opened, Path) else nullcontext(opened) as stream:
                stream.seek(member.start)
                content = stream.read(member.size)
        except FileNotFoundError:
            raise ImageError("the tar is not there any more") from None
        if len(content) < member.size:
            raise ImageError(f"the tar ends in {member.name}")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def left_out(self) -> dict[str, int]:
        return dict(self._left_out)

    def describe(self) -> dict[str, str | int]:
        facts = [*self.files.facts(), self._wanted]
        return {"kind": "tar", "files": len(self.files), "n": len(self), "digest": digest(facts)}


def _members(stream: Any) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.isreg():
                yield Member(member.name, member.offset_data, member.size)


def _split(name: str) -> tuple[str, str]:
    """Return what the files of a sample share, and what follows: ``a/b.c/01.seg.png`` is of ``a/b.c/01``."""
    folder, _, last = name.rpartition("/")
    key, _, suffix = last.partition(".")
    return f"{folder}/{key}", suffix.lower()

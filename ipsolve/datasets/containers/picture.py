"""Gray pictures: PNG and BMP, and TIFF of 8 to 64 bits, of one page or of several."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from ipsolve.datasets.base import ImageError
from ipsolve.datasets.containers.base import Array, Container, File, Header
from ipsolve.datasets.decoding import MAX_PIXELS
from ipsolve.files.filesystems import is_of_store

GRAY_FORMATS = ("PNG", "TIFF", "BMP")
_MODES: dict[str, float | None]
_MODES = {"1": 1, "L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": None, "F": None}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


class UnknownPicture(ImageError):
    """Pillow knows nothing of the kind."""


class Picture(Container):
    """A gray image at its own size; the pages of a TIFF are a stack of them, or a volume."""

    def __init__(self, file: File) -> None:
        try:
            self._image = Pillow.open(file, formats=GRAY_FORMATS)
        except UnidentifiedImageError:
            raise UnknownPicture("not a PNG, TIFF or BMP of a kind that is read") from None
        except Exception as error:  # decoders raise nearly everything on damaged bytes
            raise _damaged(error) from None
        pages = int(getattr(self._image, "n_frames", 1))
        size = (self._image.height, self._image.width)
        self.headers = {"": Header((pages, *size) if pages > 1 else size, "f" if self._image.mode == "F" else "u")}

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        shape = self.headers[name].shape
        if len(shape) == 2:
            return self._page(0)
        if row is not None:
            return self._page(row)
        if shape[0] * shape[1] * shape[2] > MAX_PIXELS:
            raise ImageError(f"{shape[0]} pages of {shape[2]} x {shape[1]} pixels; at most {MAX_PIXELS} are read")
        pages = [self._page(page) for page in range(shape[0])]
        if len({page.shape for page, _ in pages}) > 1:
            raise ImageError("its pages differ in size")
        return np.stack([page for page, _ in pages]), pages[0][1]

    def _page(self, number: int) -> tuple[Array, float | None]:
        image = self._image
        try:
            if number != image.tell():
                image.seek(number)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
            if image.mode not in _MODES:
                raise ImageError(f"an image of mode {image.mode}; allowed: one channel of 8, 16 or 32 bits")
            values, most = np.asarray(image), _MODES[image.mode]
        except Exception as error:
            raise _damaged(error) from None
        if image.format == "TIFF":
            return _of_tiff(values, most, image)
        if image.mode == "I":  # as some versions of Pillow hold the 16 bits of a PNG
            most = 65535
        return values, most

    def close(self) -> None:
        self._image.close()


def _of_tiff(values: Array, most: float | None, image: Any) -> tuple[Array, float | None]:
    """Return the numbers of a page as the file has them, and what is 1, from tags that Pillow's modes do not tell."""
    tags = image.tag_v2
    bits, sample = (int(np.atleast_1d(tags.get(tag, other))[0]) for tag, other in ((_BITS, 1), (_SAMPLE_FORMAT, 1)))
    if image.mode == "I":
        if sample == _UNSIGNED and bits == 32:  # held as signed by Pillow
            values = values.view(np.uint32)
        most = float(2 ** (bits if sample == _UNSIGNED else bits - 1) - 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode not in ("1", "L") and most is not None:
        values = most - values.astype(np.float64)  # of 8 bits Pillow does it
        values = values.astype(np.uint32)
    return values, most


def _damaged(error: Exception) -> Exception:
    if isinstance(error, ImageError) or (isinstance(error, OSError) and is_of_store(error)):
        return error
    return ImageError(f"{type(error).__name__}: {' '.join(str(error).split())}")

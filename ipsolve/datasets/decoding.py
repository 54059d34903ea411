"""From the bytes of an image file to pixels, by one stated method.

Read are PNG, JPEG, WebP, TIFF and BMP, recognised by their content. The first frame, turned as EXIF says (an
orientation that is not a whole number from 1 to 8 says nothing), becomes 8-bit RGB (16-bit grey is divided by 257, of
16-bit colours Pillow gives the high byte; transparency is composited on black; CMYK and palettes by Pillow). Values of
32 bits, of which nothing says what is white, are refused. One image per file: the largest centred square, resized with
Pillow's BICUBIC filter, which widens with the scale when shrinking (antialiased; Catmull-Rom, a = -0.5).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from ipsolve.datasets.base import Image, ImageError
from ipsolve.files.filesystems import is_of_store

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 100_000_000
_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC = 0x0106
_TURNS = {  # of the orientations that are not upright; from 5 on, width and height change places
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[Pillow.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # the limit below is the one that holds
            with Pillow.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{width} x {height} pixels; at most {MAX_PIXELS} are read")
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not a PNG, JPEG, WebP, TIFF or BMP image") from None
    except Exception as error:  # decoders raise nearly everything on damaged bytes, and one image must not end a run
        if isinstance(error, OSError) and is_of_store(error):
            raise  # the disk failed, not the image
        reason = " ".join(str(error).split())
        raise ImageError(f"{type(error).__name__}: {reason}") from error


def upright_size(file: Path | BinaryIO) -> tuple[int, int]:
    """Return (width, height) after EXIF rotation, reading the header alone.

    Raises:
        ImageError: it is not an image that is read here.
    """
    with _opened(file) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def read_rgb(file: Path | BinaryIO) -> Pillow.Image:
    """Return an image upright and as 8-bit RGB, at its own size.

    Raises:
        ImageError: it cannot be read.
    """
    with _opened(file) as image:
        image.load()
        turn = _TURNS.get(_orientation(image))
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        return _to_rgb(image if turn is None else image.transpose(turn), image.format, white_is_zero)


def _orientation(image: Pillow.Image) -> int:
    # one rule for the size and for the pixels: where they differ, tiles are cut from another grid than was counted
    stated = image.getexif().get(_EXIF_ORIENTATION)
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _to_rgb(image: Pillow.Image, kind: str | None, white_is_zero: bool) -> Pillow.Image:
    if image.mode == "F" or (image.mode == "I" and kind != "PNG"):
        raise ImageError(f"values of 32 bits (mode {image.mode}); a photograph has 8 or 16")
    if image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.float64)
        if white_is_zero:  # of 8 bits Pillow sees to it
            grey = 65535 - grey
        return Pillow.fromarray(np.clip(np.round(grey / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image.convert("RGB")


def centre_square(image: Pillow.Image, size: int) -> Image:
    """Return the largest centred square of ``image``, resized: (size, size, 3) uint8."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return resize(image, size, size, (left, top, left + side, top + side))


def resize(image: Pillow.Image, width: int, height: int, box: tuple[int, int, int, int] | None = None) -> Image:
    """Return (a box of) ``image`` resized with the antialiased bicubic filter, (height, width, 3) uint8."""
    part = image.crop(box) if box else image
    if part.size != (width, height):
        part = part.resize((width, height), Pillow.Resampling.BICUBIC)
    return np.array(part, dtype=np.uint8)

"""What an x is: its kind, by its shape, and what is done with it outside of the mathematics.

============  ================  ==============================================================
kind          shape of x        meaning
============  ================  ==============================================================
``rgb``       (3, H, W)         a colour image
``gray``      (1, H, W)         an image of one channel
``complex``   (2, H, W)         real and imaginary part, a pair of real channels
``volume``    (D, H, W)         D > 3 slices
``video``     (T, C, H, W)      T frames of C channels, 1 or 3
``vector``    (d,)              a point, of the problems whose posterior is known
============  ================  ==============================================================

Values lie in [-1, 1] up to overshoot; of a complex signal it is the modulus that is at most 1. Norms, noise and inner
products are those of the real numbers that a signal consists of. Of complex pairs that is the real part of the
conjugated inner product, Re <a, b>, for which an adjoint is the conjugate transpose: gradients, conjugate gradients and
noise, of which each part has its own, need no case of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Kind = Literal["rgb", "gray", "complex", "volume", "video", "vector"]

PICTURES: frozenset[Kind] = frozenset({"rgb", "gray"})  # what a PNG can hold
IMAGES: frozenset[Kind] = PICTURES | {"complex"}
PLANES: frozenset[Kind] = IMAGES | {"volume"}  # every entry of the first axis is a plane (H, W)
EVERY: frozenset[Kind] = PLANES | {"video", "vector"}
_CHANNELS: dict[int, Kind] = {1: "gray", 2: "complex", 3: "rgb"}


@dataclass(frozen=True)
class Signal:
    """The kind and the shape of x. Make it with :meth:`of`."""

    kind: Kind
    shape: Shape

    @classmethod
    def of(cls, shape: Shape) -> Signal:
        """Return the signal of a shape.

        Raises:
            ValueError: no kind has such a shape.
        """
        shape = tuple(shape)
        if len(shape) == 1:
            return cls("vector", shape)
        if len(shape) == 3:
            return cls(_CHANNELS.get(shape[0], "volume"), shape)
        if len(shape) == 4 and shape[1] in (1, 3):
            return cls("video", shape)
        raise ValueError(
            f"no signal has the shape {list(shape)}; allowed: [3, H, W] rgb, [1, H, W] gray, [2, H, W] complex, "
            "[D, H, W] volume (D > 3), [T, 3, H, W] or [T, 1, H, W] video"
        )

    @property
    def sites(self) -> Shape:
        """The shape of what is sampled as one: channels of a pixel and both parts of a complex number go together.

        A mask of this shape broadcasts to x: (1, H, W) for images, (D, H, W) for volumes, (T, 1, H, W) for videos.
        """
        if self.kind == "video":
            return self.shape[0], 1, *self.shape[2:]
        return self.shape if self.kind in ("volume", "vector") else (1, *self.shape[1:])

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape if self.kind in ("volume", "video") else self.shape[1:] or self.shape))
        return size if self.kind == "rgb" else f"{size}, {self.kind}"

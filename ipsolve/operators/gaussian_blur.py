"""Gaussian blur."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import OPERATORS, Shape, require
from ipsolve.operators.separable import Matrix, SeparableSpec, Truncation


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class GaussianBlur(SeparableSpec):
    """y is x convolved with a sampled Gaussian, cut off at 4 std and normalised to sum 1.

    The defaults (61 x 61, std 3.0) are those of DPS, ReSample and DAPS, whose kernel is SciPy's ``gaussian_filter``
    of a unit impulse. On images too small for it the kernel is cut to what the boundary allows.

    Args:
        kernel_size: side of the kernel in pixels, odd.
        std: standard deviation in pixels.
        boundary: ``reflect`` (without repeating the edge pixel, as the papers) or ``circular``.
        truncation: directions of rows and of columns with a singular value below it are removed, from y as well as from
            A^+: 0.03 in the code of DDRM and DDNM, whose noiseless results rest on it. 0 keeps all that float64 can.
    """

    name: ClassVar[str] = "gaussian_blur"
    kernel_size: Annotated[int, Field(ge=1)] = 61
    std: Annotated[float, Field(gt=0)] = 3.0
    boundary: Literal["reflect", "circular"] = "reflect"
    truncation: Truncation = 0.0

    def check(self, image_shape: Shape) -> None:
        require(self.kernel_size % 2 == 1, f"kernel_size: must be odd (got {self.kernel_size})")

    def matrix(self, side: int) -> Matrix:
        allowed = side - 1 if self.boundary == "reflect" else (side - 1) // 2
        radius = min(self.kernel_size // 2, int(4 * self.std + 0.5), allowed)
        offset = np.arange(-radius, radius + 1)
        kernel = np.exp(-0.5 * (offset / self.std) ** 2)
        kernel /= kernel.sum()
        pixel = np.arange(side)
        source = pixel[:, None] + offset
        if self.boundary == "circular":
            source %= side
        else:
            source = np.abs(source)
            source = np.where(source < side, source, 2 * (side - 1) - source)
        matrix = np.zeros((side, side))
        np.add.at(matrix, (pixel[:, None], source), kernel)
        return matrix

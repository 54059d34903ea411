"""Super-resolution: the image is shrunk by an antialiased bicubic filter."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.citation import Citation
from ipsolve.operators.base import OPERATORS, Shape, require
from ipsolve.operators.separable import Matrix, SeparableSpec


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class SuperResolution(SeparableSpec):
    """y is x shrunk by ``factor`` with the bicubic kernel of MATLAB's imresize, which DPS and ReSample use.

    The cubic of Keys 1981 (a = -1/2) is stretched by the factor (antialiasing), weights are normalised to sum 1,
    and the image is mirrored at its borders with the edge pixel repeated.

    Args:
        factor: how many times smaller, 2 to 16; must divide both image sides.
    """

    name: ClassVar[str] = "super_resolution"
    citation: ClassVar[Citation] = Citation(
        key="keys1981cubic",
        authors="Keys, Robert G.",
        title="Cubic Convolution Interpolation for Digital Image Processing",
        year=1981,
        venue="IEEE Transactions on Acoustics, Speech, and Signal Processing",
    )
    factor: Annotated[int, Field(ge=2, le=16)] = 4

    def check(self, image_shape: Shape) -> None:
        height, width = image_shape[1:]
        require(
            height % self.factor == 0 and width % self.factor == 0,
            f"factor: {self.factor} does not divide the image sides {height}x{width}",
        )

    def matrix(self, side: int) -> Matrix:
        factor = self.factor
        small = np.arange(side // factor)
        centre = (small + 0.5) * factor - 0.5
        reach = np.arange(-2 * factor, 2 * factor + 1)
        tap = np.floor(centre)[:, None].astype(int) + reach
        weight = _cubic((centre[:, None] - tap) / factor)
        weight /= weight.sum(axis=1, keepdims=True)
        mirrored = np.mod(tap, 2 * side)
        mirrored = np.where(mirrored < side, mirrored, 2 * side - 1 - mirrored)
        matrix = np.zeros((len(small), side))
        np.add.at(matrix, (small[:, None], mirrored), weight)
        return matrix


def _cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic convolution kernel with a = -1/2."""
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

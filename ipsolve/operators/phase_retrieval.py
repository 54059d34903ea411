"""Phase retrieval: only the modulus of the Fourier transform is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import OPERATORS, Operator, OperatorSpec, Shape, Theta
from ipsolve.signal import PICTURES, Kind


class FourierModulus(Operator):
    """y = |F pad(x)| with the unitary Fourier transform F of the zero-padded image.

    Global sign, and shifts that keep the content within the image, leave y as it is.

    Args:
        image_shape: (C, H, W).
        padding: zeros added on every side, (rows, columns).
    """

    def __init__(self, image_shape: Shape, padding: tuple[int, int]) -> None:
        channels, height, width = image_shape
        self.padding = padding
        self.image_shape = image_shape
        self.measurement_shape = (channels, height + 2 * padding[0], width + 2 * padding[1])

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.padding
        padded = torch.nn.functional.pad(x, (columns, columns, rows, rows))
        modulus: Tensor = torch.fft.fft2(padded, norm="ortho").abs()
        return modulus

    def select(self, rows: Tensor) -> Self:
        return self

    def as_image(self, y: Tensor) -> Tensor | None:
        """Return the modulus on a logarithmic scale, zero frequency in the middle, -1..1 for each image."""
        level: Tensor = torch.fft.fftshift(y.clamp(min=0), dim=(-2, -1)).log1p()
        return 2 * level / level.amax((1, 2, 3), keepdim=True).clamp(min=1e-12) - 1


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PhaseRetrieval(OperatorSpec):
    """y is the modulus of the oversampled Fourier transform (of images in [-1, 1], as DPS, arXiv 2209.14687).

    Args:
        oversample: as in the code of DPS and DAPS: each border gets oversample / 8 of the side in zeros, so that 2.0
            means a grid of 1.5 times the side, and 4.0 one of twice the side.
    """

    name: ClassVar[str] = "phase_retrieval"
    signals: ClassVar[frozenset[Kind]] = PICTURES
    linear: ClassVar[bool] = False
    oversample: Annotated[float, Field(ge=0, le=16)] = 2.0

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> FourierModulus:
        rows, columns = (int(self.oversample / 8 * side) for side in image_shape[1:])
        return FourierModulus(image_shape, (rows, columns))

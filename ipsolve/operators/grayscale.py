"""Colourisation: only a grey-scale image is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape, SpectralOperator, Theta, drop_null, require
from ipsolve.signal import Kind


class ChannelMatrix(SpectralOperator):
    """y = M x across channels, at every pixel alike. Spectral coordinates are (B, C, H, W).

    Args:
        matrix: (k, C) with k <= C.
        image_shape: (C, H, W).
    """

    def __init__(self, matrix: Tensor, image_shape: Shape) -> None:
        k, channels = matrix.shape
        self.image_shape, self.measurement_shape = image_shape, (k, *image_shape[1:])
        u, s, vt = torch.linalg.svd(matrix, full_matrices=True)
        padding = (0, channels - k)
        self._u, self._v = torch.nn.functional.pad(u, padding), vt.mT
        self._s = drop_null(torch.nn.functional.pad(s, padding)[None], self.rank_tolerance)[..., None, None]

    def select(self, rows: Tensor) -> Self:
        return self

    def singular_values(self) -> Tensor:
        return self._s

    def to_spectral(self, x: Tensor) -> Tensor:
        return _mix(self._v.mT, x)

    def from_spectral(self, c: Tensor) -> Tensor:
        return _mix(self._v, c)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return _mix(self._u.mT, y)

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return _mix(self._u, c)

    def as_image(self, y: Tensor) -> Tensor | None:
        return y.expand(-1, 3, -1, -1) if self.measurement_shape[0] == 1 else super().as_image(y)


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", matrix, x)


Weight = Annotated[float, Field(ge=0)]


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Grayscale(OperatorSpec):
    """y is a weighted mean of red, green and blue, (B, 1, H, W).

    Args:
        weights: of red, green and blue. The default is the plain mean of DDNM (Wang et al. 2023, arXiv 2212.00490);
            [0.299, 0.587, 0.114] is the luma of ITU-R BT.601.
    """

    name: ClassVar[str] = "grayscale"
    signals: ClassVar[frozenset[Kind]] = frozenset({"rgb"})
    weights: tuple[Weight, Weight, Weight] = (1 / 3, 1 / 3, 1 / 3)

    def __post_init__(self) -> None:
        require(sum(self.weights) > 0, "weights: at least one must be greater than 0")

    @property
    def spectral(self) -> bool:
        return True

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> ChannelMatrix:
        return ChannelMatrix(torch.tensor([self.weights], dtype=dtype, device=device), image_shape)

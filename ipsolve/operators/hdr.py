"""High dynamic range: a sensor that saturates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import OPERATORS, Operator, OperatorSpec, Shape, Theta
from ipsolve.signal import EVERY, Kind


class Saturation(Operator):
    """y = clip(gain x, -1, 1). The gradient is ``gain`` inside the range and 0 where it saturates."""

    def __init__(self, image_shape: Shape, gain: float) -> None:
        self.image_shape = self.measurement_shape = image_shape
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(-1, 1)

    def select(self, rows: Tensor) -> Self:
        return self


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Hdr(OperatorSpec):
    """y is x with ``gain`` times its contrast, clipped to [-1, 1] (2 in DAPS: Zhang et al. 2025, arXiv 2407.01521)."""

    name: ClassVar[str] = "hdr"
    signals: ClassVar[frozenset[Kind]] = EVERY - {"complex"}
    linear: ClassVar[bool] = False
    gain: Annotated[float, Field(ge=1)] = 2.0

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Saturation:
        return Saturation(image_shape, self.gain)

"""Motion blur: every image has its own camera shake."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import OPERATORS, LinearOperator, OperatorSpec, Shape, Theta, require
from ipsolve.operators.circulant import Circulant
from ipsolve.operators.convolution import Convolution
from ipsolve.operators.motion_kernels import motion_kernels
from ipsolve.operators.motion_walk import walk_kernels
from ipsolve.randomness import ImageRng


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MotionBlur(OperatorSpec):
    """y is x convolved with a random motion kernel, drawn per image.

    The defaults are the kernels of DPS, ReSample and DAPS: 61 x 61 at 256 pixels, intensity 0.5.

    Args:
        kernel_size: side of the kernel in pixels, odd; null is the odd number nearest to 61/256 of the image side.
        intensity: from 0, a straight motion, to 1, a tangled one.
        shape: ``walk``, the process of the papers (:mod:`ipsolve.operators.motion_walk`), thin and off its middle, or
            ``centred``, a smooth path about its centroid, twice as wide across.
        boundary: ``reflect`` (without repeating the edge pixel, as the papers; A^+ by conjugate gradients) or
            ``circular`` (exact SVD).
    """

    name: ClassVar[str] = "motion_blur"
    blind: ClassVar[bool] = True
    kernel_size: Annotated[int, Field(ge=3)] | None = None
    intensity: Annotated[float, Field(ge=0, le=1)] = 0.5
    shape: Literal["walk", "centred"] = "walk"
    boundary: Literal["reflect", "circular"] = "reflect"

    @property
    def spectral(self) -> bool:
        return self.boundary == "circular"

    def _size(self, image_shape: Shape) -> int:
        if self.kernel_size is not None:
            return self.kernel_size
        return max(3, 2 * round((min(image_shape[1:]) * 61 / 256 - 1) / 2) + 1)

    def check(self, image_shape: Shape) -> None:
        side, size = min(image_shape[1:]), self._size(image_shape)
        require(size % 2 == 1, f"kernel_size: must be odd (got {size})")
        largest = 2 * side - 1 if self.boundary == "reflect" else side - 1 + side % 2
        require(
            size <= largest,
            f"kernel_size: {size} is too large for {self.boundary} boundaries of images with a side of {side}; "
            f"at most {largest}",
        )

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        draw = walk_kernels if self.shape == "walk" else motion_kernels
        return {"kernel": draw(self._size(image_shape), self.intensity, rng, dtype)}

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> LinearOperator:
        kernel = theta["kernel"]
        return Circulant(kernel, image_shape) if self.boundary == "circular" else Convolution(kernel, image_shape)

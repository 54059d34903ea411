"""Inpainting: part of the pixels is missing."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape, Theta, require
from ipsolve.operators.mask import Mask
from ipsolve.randomness import ImageRng
from ipsolve.signal import EVERY, Kind, Signal

Rate = Annotated[float, Field(ge=0, lt=1)]


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class RandomInpainting(OperatorSpec):
    """A random share of the pixels is dropped, in all channels together; exactly floor(rate H W) of them.

    Of volumes and videos it is voxels and pixels of single frames (:attr:`ipsolve.signal.Signal.sites`).

    The default draws the share of each image from U(0.70, 0.71), as the code of ReSample does (Song et al. 2024,
    arXiv 2307.08123).

    Args:
        drop_rate: the share to drop, the same for every image.
        drop_range: [low, high], from which the share of each image is drawn; excludes ``drop_rate``.
        noise_on_masked: whether dropped pixels carry noise, as in the code of ReSample.
    """

    name: ClassVar[str] = "random_inpainting"
    signals: ClassVar[frozenset[Kind]] = EVERY
    drop_rate: Rate | None = None
    drop_range: tuple[Rate, Rate] | None = None
    noise_on_masked: bool = False

    def __post_init__(self) -> None:
        require(self.drop_rate is None or self.drop_range is None, "give drop_rate or drop_range, not both")
        if self.drop_rate is None and self.drop_range is None:
            object.__setattr__(self, "drop_range", (0.70, 0.71))
        low, high = self.drop_range or (0.0, 0.0)
        require(low <= high, f"drop_range must be [low, high] with low <= high (got {[low, high]})")

    @property
    def spectral(self) -> bool:
        return True

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        sites = Signal.of(image_shape).sites
        low, high = self.drop_range or (self.drop_rate, self.drop_rate)
        rate = low + (high - low) * rng.uniform(1, dtype=torch.float64)  # type: ignore[operator]
        dropped = (rate * math.prod(sites)).floor()
        kept = rng.permutation(math.prod(sites)) >= dropped
        return {"mask": kept.to(dtype).reshape(-1, *sites)}

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Mask:
        return Mask(theta["mask"], image_shape, not self.noise_on_masked)


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class BoxInpainting(OperatorSpec):
    """A square of ``box`` x ``box`` pixels is missing.

    Args:
        box: side of the square in pixels; null is half the shorter image side, 128 at 256 pixels.
        position: ``centre``, or ``random`` for a place drawn per image, as in DPS (arXiv 2209.14687).
        margin: least distance in pixels of a random square from the border; null is 1/16 of the shorter side.
        noise_on_masked: whether missing pixels carry noise.
    """

    name: ClassVar[str] = "box_inpainting"
    box: Annotated[int, Field(ge=1)] | None = None
    position: Literal["centre", "random"] = "centre"
    margin: Annotated[int, Field(ge=0)] | None = None
    noise_on_masked: bool = False

    @property
    def spectral(self) -> bool:
        return True

    def _resolve(self, image_shape: Shape) -> tuple[int, int]:
        side = min(image_shape[1:])
        margin = side // 16 if self.margin is None else self.margin
        return (side // 2 if self.box is None else self.box), (margin if self.position == "random" else 0)

    def check(self, image_shape: Shape) -> None:
        box, margin = self._resolve(image_shape)
        most = min(image_shape[1:]) - 2 * margin
        require(
            box <= most and box < max(image_shape[1:]),
            f"box: {box} does not fit into {image_shape[1]}x{image_shape[2]} images with a margin of {margin}; "
            f"at most {min(most, max(image_shape[1:]) - 1)}",
        )

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        box, margin = self._resolve(image_shape)
        inside = []
        for dim, side in enumerate(image_shape[1:]):
            room = side - box - 2 * margin
            if self.position == "random":
                start = margin + (rng.uniform(1, dtype=torch.float64) * (room + 1)).floor()
            else:
                start = torch.full((rng.batch_size, 1), room // 2, device=rng.device)
            pixel = torch.arange(side, device=rng.device)
            covered = (pixel >= start) & (pixel < start + box)
            inside.append(covered.unsqueeze(2 - dim))
        mask = ~(inside[0] & inside[1])
        return {"mask": mask.to(dtype)[:, None]}

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Mask:
        return Mask(theta["mask"], image_shape, not self.noise_on_masked)

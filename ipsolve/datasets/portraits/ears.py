"""Ears and earrings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, ellipse, over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.head import Head

METALS = [(0.95, 0.82, 0.35), (0.9, 0.9, 0.93), (0.3, 0.7, 0.8), (0.85, 0.25, 0.3)]


@dataclass(frozen=True)
class Ears:
    """Traits of the ears. Fields in stream order."""

    size: Tensor
    level: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(size=draws.uniform(0.09, 0.13), level=draws.uniform(-0.02, 0.08))

    def paint(self, image: Tensor, head: Head) -> Tensor:
        for side in (-1.0, 1.0):
            x = head.u - side * (head.half_width - 0.005) + head.yaw * 0.25
            radius = ellipse(x, head.v - self.level, self.size * 0.62, self.size * 1.25)
            distance = (radius - 1) * self.size * 0.62
            shade = 0.72 + 0.15 * side * head.light[0] + 0.25 * distance.clamp(-0.05, 0) / 0.05
            image = over(image, head.skin * channels(shade), head.cover(distance))
        return image


@dataclass(frozen=True)
class Earrings:
    """Traits of the rings that 22 % wear. Fields in stream order."""

    worn: Tensor
    metal: Tensor
    radius: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(worn=draws.chance(0.22), metal=draws.colour(METALS, 0.05), radius=draws.uniform(0.03, 0.05))

    def paint(self, image: Tensor, head: Head, ears: Ears) -> Tensor:
        for side in (-1.0, 1.0):
            x = head.u - side * (head.half_width + 0.015) + head.yaw * 0.25
            y = head.v - ears.level - ears.size * 1.5
            ring = (torch.sqrt(x**2 + y**2) - self.radius).abs() - 0.012
            image = over(image, self.metal, head.cover(ring) * self.worn)
        return image

"""The wall behind the sitter: a gradient, a pattern, discs of light out of focus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, coverage, hsv, over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.frame import Frame

NUM_DISCS = 3


@dataclass(frozen=True)
class Disc:
    """A disc of light. Fields in stream order."""

    x: Tensor
    y: Tensor
    radius: Tensor
    colour: Tensor
    opacity: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            x=draws.uniform(-1, 1),
            y=draws.uniform(-1, 1),
            radius=draws.uniform(0.08, 0.3),
            colour=hsv(draws.uniform(), draws.uniform(0, 0.5), draws.uniform(0.4, 1)),
            opacity=draws.uniform(0.1, 0.5),
        )


@dataclass(frozen=True)
class Background:
    """Traits of the background. Fields in stream order."""

    angle: Tensor
    hue: Tensor
    saturation: Tensor
    value: Tensor
    hue_shift: Tensor
    far_saturation: Tensor
    far_value: Tensor
    cloud: Tensor
    cloud_strength: Tensor
    kind: Tensor
    frequency: Tensor
    pattern_angle: Tensor
    phase: Tensor
    pattern_strength: Tensor
    discs: list[Disc]

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            angle=draws.uniform(0, 2 * math.pi),
            hue=draws.uniform(),
            saturation=draws.uniform(0, 0.6),
            value=draws.uniform(0.25, 0.95),
            hue_shift=draws.uniform(-0.2, 0.2),
            far_saturation=draws.uniform(0, 0.6),
            far_value=draws.uniform(0.15, 0.95),
            cloud=draws.noise(5, 5),
            cloud_strength=draws.uniform(0, 0.25),
            kind=draws.uniform(),
            frequency=draws.uniform(3, 9),
            pattern_angle=draws.uniform(0, math.pi),
            phase=draws.uniform(0, 6.28),
            pattern_strength=draws.uniform(0.04, 0.22),
            discs=[Disc.draw(draws) for _ in range(NUM_DISCS)],
        )

    def paint(self, frame: Frame) -> Tensor:
        """Return the background, (B, 3, size, size) in [0, 1]."""
        x, y = frame.x, frame.y
        along = (0.5 + 0.5 * (x * torch.cos(self.angle) + y * torch.sin(self.angle))).clamp(0, 1)
        near = hsv(self.hue, self.saturation, self.value)
        far = hsv((self.hue + self.hue_shift) % 1, self.far_saturation, self.far_value)
        image = near + (far - near) * channels(along)
        image = image * channels(1 + self.cloud_strength * self.cloud)
        image = image * channels(1 + self._pattern(x, y) * self.pattern_strength)
        for disc in self.discs:
            distance = torch.sqrt((x - disc.x) ** 2 + (y - disc.y) ** 2) - disc.radius
            alpha = coverage(distance, frame.pixel * 1.5) * disc.opacity * (self.kind > 0.7).float()
            image = over(image, disc.colour, alpha)
        return image

    def _pattern(self, x: Tensor, y: Tensor) -> Tensor:
        cos, sin = torch.cos(self.pattern_angle), torch.sin(self.pattern_angle)
        across = torch.sin((x * cos + y * sin) * self.frequency * 2.2 + self.phase)
        along = torch.sin((y * cos - x * sin) * self.frequency * 2.2)
        stripes = (across * 4).clamp(-1, 1) * (self.kind < 0.22).float()
        checks = (across * along * 8).clamp(-1, 1) * ((self.kind > 0.22) & (self.kind < 0.38)).float()
        return stripes + checks

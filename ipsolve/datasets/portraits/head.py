"""The sitter's head: where it is, how it is turned, its proportions, its colours and the light on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, coverage, hsv
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.frame import Frame

SKIN = [
    (0.98, 0.86, 0.76),
    (0.95, 0.79, 0.68),
    (0.90, 0.72, 0.58),
    (0.82, 0.61, 0.46),
    (0.70, 0.49, 0.35),
    (0.55, 0.37, 0.26),
    (0.42, 0.28, 0.20),
]
HAIR = [
    (0.07, 0.06, 0.06),
    (0.16, 0.10, 0.07),
    (0.29, 0.18, 0.11),
    (0.42, 0.25, 0.13),
    (0.58, 0.30, 0.14),
    (0.76, 0.58, 0.32),
    (0.88, 0.76, 0.50),
    (0.62, 0.61, 0.60),
    (0.86, 0.85, 0.84),
    (0.10, 0.08, 0.10),
    (0.22, 0.13, 0.09),
]


@dataclass(frozen=True)
class HeadTraits:
    """Traits of the head. Fields in stream order."""

    centre_x: Tensor
    centre_y: Tensor
    scale: Tensor
    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    half_width: Tensor
    half_height: Tensor
    jaw: Tensor
    skin: Tensor
    natural_hair: Tensor
    dyed: Tensor
    dye: Tensor
    light_x: Tensor
    light_y: Tensor
    ambient: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            centre_x=draws.uniform(-0.15, 0.15),
            centre_y=draws.uniform(-0.14, 0.06),
            scale=draws.uniform(1.08, 1.36),
            roll=draws.bell(0.12),
            yaw=draws.bell(0.09),
            pitch=draws.uniform(-0.05, 0.05),
            half_width=draws.uniform(0.40, 0.50),
            half_height=draws.uniform(0.56, 0.66),
            jaw=draws.uniform(0.08, 0.34),
            skin=draws.colour(SKIN, 0.03),
            natural_hair=draws.colour(HAIR, 0.04),
            dyed=draws.chance(0.06),
            dye=hsv(draws.uniform(), 0.6, draws.uniform(0.4, 0.9)),
            light_x=draws.uniform(-0.8, 0.8),
            light_y=draws.uniform(-0.8, 0.2),
            ambient=draws.uniform(0.42, 0.7),
        )


class Head:
    """A head in the picture: its coordinates (u to its left ear, v to its chin, unit = ``scale``) and its traits."""

    def __init__(self, traits: HeadTraits, frame: Frame) -> None:
        self.frame = frame
        self.centre_x, self.centre_y, self.scale = traits.centre_x, traits.centre_y, traits.scale
        cos, sin = torch.cos(traits.roll) / self.scale, torch.sin(traits.roll) / self.scale
        self.u = (frame.x - self.centre_x) * cos + (frame.y - self.centre_y) * sin
        self.v = (frame.y - self.centre_y) * cos - (frame.x - self.centre_x) * sin
        self.pixel = frame.pixel / self.scale
        self.yaw, self.pitch = traits.yaw, traits.pitch
        self.half_width, self.half_height, self.jaw = traits.half_width, traits.half_height, traits.jaw
        self.skin = traits.skin
        dyed = channels(traits.dyed)
        self.hair = traits.natural_hair * (1 - dyed) + dyed * traits.dye
        length = torch.sqrt(traits.light_x**2 + traits.light_y**2 + 0.5)
        self.light = (traits.light_x / length, traits.light_y / length, 0.7071 / length)
        self.ambient = traits.ambient

    @property
    def turned(self) -> Tensor:
        """The horizontal coordinate of what sits on the front of the face, which the yaw carries along."""
        return self.u - self.yaw

    def cover(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """Return the coverage of a shape given in head coordinates; its edge is ``softness`` pixels wide."""
        return coverage(distance, self.pixel * softness)

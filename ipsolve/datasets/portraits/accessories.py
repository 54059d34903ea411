"""Hats and glasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, ellipse, glow, grey, hsv, intersection, over, union
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.face import Face

FRAMES = [(0.06, 0.05, 0.05), (0.35, 0.18, 0.1), (0.75, 0.65, 0.3), (0.7, 0.7, 0.73), (0.5, 0.1, 0.12)]


@dataclass(frozen=True)
class Hat:
    """Traits of the knitted hat that 10 % wear. Fields in stream order."""

    worn: Tensor
    colour: Tensor
    brim: Tensor
    rib_frequency: Tensor
    rib_strength: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            worn=draws.chance(0.10),
            colour=hsv(draws.uniform(), draws.uniform(0.2, 0.8), draws.uniform(0.15, 0.9)),
            brim=draws.uniform(-0.36, -0.26),
            rib_frequency=draws.uniform(20, 50),
            rib_strength=draws.uniform(0, 0.15),
        )

    def paint(self, image: Tensor, face: Face) -> Tensor:
        head = face.head
        u, v, half_width = head.u, head.v, head.half_width
        ribs = torch.sin(u * self.rib_frequency) * self.rib_strength
        dome = (ellipse(u, v + 0.1, half_width + 0.09, head.half_height + 0.12) - 1) * half_width
        knit = self.colour * channels(0.75 + ribs + 0.35 * (u * head.light[0]) + 0.2 * face.lambert)
        image = over(image, knit.clamp(0, 1), head.cover(intersection(dome, v - self.brim)) * self.worn)
        band = intersection((v - self.brim + 0.04).abs() - 0.045, u.abs() - half_width - 0.09)
        return over(image, self.colour * 0.65, head.cover(band) * self.worn)


@dataclass(frozen=True)
class Glasses:
    """Traits of the glasses that 24 % wear, a quarter of them tinted. Fields in stream order."""

    worn: Tensor
    radius: Tensor
    thickness: Tensor
    squareness: Tensor
    colour: Tensor
    tinted: Tensor
    tint: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            worn=draws.chance(0.24),
            radius=draws.uniform(0.115, 0.15),
            thickness=draws.uniform(0.010, 0.02),
            squareness=draws.uniform(2.0, 5.0),
            colour=draws.colour(FRAMES, 0.04),
            tinted=draws.chance(0.25),
            tint=draws.uniform(0.3, 0.85),
        )

    def paint(self, image: Tensor, face: Face) -> Tensor:
        head = face.head
        u, y = head.turned, head.v - face.eye_level
        for side in (-1.0, 1.0):
            # the offset keeps the power away from 0
            p = ((u - side * (face.eye_distance + 0.005)) / self.radius).abs() + 1e-4
            q = ((y - 0.01) / (self.radius * 0.85)).abs() + 1e-4
            rim = ((p**self.squareness + q**self.squareness) ** (1 / self.squareness) - 1) * self.radius
            lens = head.cover(rim) * self.worn
            image = over(image, grey(self.colour, 0.08), lens * (self.tinted * self.tint))
            image = image + channels(0.10 * lens * glow((p * side - q + 0.2, 0.25)))
            image = over(image, self.colour, head.cover(rim.abs() - self.thickness) * self.worn)
        bridge = intersection(
            (y + 0.01 + 0.6 * (u * u)).abs() - self.thickness, u.abs() - (face.eye_distance - self.radius * 0.95)
        )
        beyond = u.abs() - face.eye_distance
        temples = intersection(
            (y - 0.01 + 0.05 * beyond).abs() - self.thickness,
            -(beyond - self.radius),
            head.u.abs() - head.half_width,
        )
        return over(image, self.colour, head.cover(union(bridge, temples)) * self.worn)

"""Eyes, lids and brows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, grey, intersection, over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.face import Face

IRIS = [
    (0.30, 0.18, 0.10),
    (0.22, 0.13, 0.08),
    (0.25, 0.45, 0.65),
    (0.30, 0.50, 0.35),
    (0.45, 0.50, 0.52),
    (0.48, 0.35, 0.15),
]


@dataclass(frozen=True)
class Eyes:
    """Traits that both eyes share. Fields in stream order."""

    half_width: Tensor
    half_height: Tensor
    tilt: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    iris: Tensor
    iris_radius: Tensor
    brow_height: Tensor
    brow_thickness: Tensor
    brow_slope: Tensor
    brow_arch: Tensor
    liner: Tensor
    closed: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            half_width=draws.uniform(0.072, 0.098),
            half_height=draws.uniform(0.026, 0.05),
            tilt=draws.uniform(-0.18, 0.18),
            gaze_x=draws.uniform(-0.022, 0.022),
            gaze_y=draws.uniform(-0.008, 0.008),
            iris=draws.colour(IRIS, 0.05),
            iris_radius=draws.uniform(0.034, 0.044),
            brow_height=draws.uniform(0.095, 0.14),
            brow_thickness=draws.uniform(0.012, 0.028),
            brow_slope=draws.uniform(-0.3, 0.25),
            brow_arch=draws.uniform(0.3, 2.2),
            liner=draws.uniform(0.3, 0.9),
            closed=draws.chance(0.05),
        )

    def paint(self, colour: Tensor, face: Face) -> Tensor:
        """Paint both eyes and brows, (B, 3, H, W) to the same."""
        for side in (-1.0, 1.0):
            x = face.head.turned - side * face.eye_distance
            y = face.head.v - face.eye_level
            colour = self._paint_eye(colour, face, x, y - self.tilt * x * side)
            colour = self._paint_brow(colour, face, x, y, side)
        return colour

    def _paint_eye(self, colour: Tensor, face: Face, x: Tensor, y: Tensor) -> Tensor:
        head = face.head
        almond = 1 - (x / self.half_width) ** 2
        openness = 1 - 0.8 * self.closed
        above = y + self.half_height * openness * almond
        below = y - self.half_height * 0.75 * openness * almond
        colour = torch.lerp(
            colour, self._eyeball(colour, face, x, y), channels(head.cover(intersection(-above, below)))
        )
        lids = head.cover(x.abs() - self.half_width * 1.08)
        colour = over(colour, head.skin * 0.16, head.cover(above.abs() - 0.009) * lids * self.liner)
        colour = over(colour, head.skin * 0.45, head.cover(below.abs() - 0.005) * lids * 0.35)
        crease = (y + (self.half_height + 0.022) * almond - 0.004).abs() - 0.004
        return over(colour, head.skin * 0.5, head.cover(crease) * lids * 0.4)

    def _eyeball(self, like: Tensor, face: Face, x: Tensor, y: Tensor) -> Tensor:
        head, radius = face.head, self.iris_radius
        white = 0.62 + 0.38 * (y / self.half_height).clamp(-1, 1) * 0.5 + 0.15 * face.lambert
        ball = grey(like, 0.93) * channels(white)
        from_pupil = torch.sqrt((x - self.gaze_x) ** 2 + (y - self.gaze_y + 0.004) ** 2)
        lit_from_below = (0.5 + 6 * (y - self.gaze_y)).clamp(0.1, 1.2)
        iris = self.iris * channels(0.75 + 0.9 * (from_pupil / radius).clamp(0, 1) * lit_from_below)
        ball = over(ball, iris.clamp(0, 1), head.cover(from_pupil - radius))
        ball = over(ball, grey(self.iris, 0.03), head.cover(from_pupil - radius * 0.45))
        highlight = torch.sqrt((x - self.gaze_x + 0.012) ** 2 + (y - self.gaze_y + 0.016) ** 2)
        return over(ball, grey(self.iris, 1.0), head.cover(highlight - 0.011))

    def _paint_brow(self, colour: Tensor, face: Face, x: Tensor, y: Tensor, side: float) -> Tensor:
        head = face.head
        arch = y + self.brow_height + self.brow_slope * x * side + self.brow_arch * x * x
        thickness = self.brow_thickness * (1 - 2.2 * (x * side).clamp(0, 0.2))
        brow = intersection(arch.abs() - thickness, x.abs() - self.half_width * 1.25)
        return over(colour, head.hair * 0.75 + 0.02, head.cover(brow, 1.3) * 0.9)

"""Mouth, beard and moustache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, glow, intersection, over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.face import Face

LIPS = [
    (1.0, 0.62, 0.60),
    (1.0, 0.70, 0.66),
    (0.98, 0.48, 0.50),
    (1.0, 0.80, 0.74),
    (0.95, 0.35, 0.42),
]  # times the skin
TEETH = [(0.95, 0.93, 0.90), (0.95, 0.94, 0.92), (0.3, 0.08, 0.08)]  # the last is an empty mouth


@dataclass(frozen=True)
class Beard:
    """Traits of beard and moustache, and the level of the mouth. Fields in stream order."""

    kind: Tensor
    stubble: Tensor
    mouth_level: Tensor
    line: Tensor
    curve: Tensor
    strength: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            kind=draws.uniform(),
            stubble=draws.noise(30, 30, "bilinear"),
            mouth_level=draws.uniform(0.36, 0.44),
            line=draws.uniform(0.02, 0.25),
            curve=draws.uniform(0.2, 0.75),
            strength=draws.uniform(0.35, 1.0),
        )

    def paint(self, colour: Tensor, face: Face) -> Tensor:
        """Paint the beard of the 15 % and the moustache of the 24 % that have one, around the mouth."""
        head = face.head
        u, v, level = head.turned, head.v, mouth_level(self, face)
        towards_cheek = (u.abs() - head.half_width * 0.85).clamp(max=0).abs()
        beard = intersection(-(v - (self.line + 0.55 * towards_cheek * self.curve)), face.outline)
        moustache = intersection(u.abs() - 0.17, (v - level + 0.075 + 0.25 * u * u * 4 * 0.1).abs() - 0.035)
        has_beard, has_moustache = (self.kind < 0.15).float(), (self.kind < 0.24).float()
        mask = (head.cover(beard, 2.5) * has_beard + head.cover(moustache, 1.6) * has_moustache).clamp(0, 1)
        mask = mask * (1 - torch.exp(-((u / 0.12) ** 4) - ((v - level) / 0.05) ** 4))
        hair = head.hair * channels(0.8 + 0.45 * self.stubble) * channels(0.55 + 0.5 * face.lambert)
        return torch.lerp(colour, hair, channels(mask * self.strength * has_moustache))


def mouth_level(beard: Beard, face: Face) -> Tensor:
    """Return the v coordinate of the line between the lips, (B, 1, 1)."""
    return beard.mouth_level + face.head.pitch * 0.8


@dataclass(frozen=True)
class Mouth:
    """Traits of the mouth. Fields in stream order."""

    width: Tensor
    smile: Tensor
    open: Tensor
    gap: Tensor
    upper: Tensor
    lower: Tensor
    lip_tone: Tensor
    teeth: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            width=draws.uniform(0.11, 0.185),
            smile=draws.uniform(-0.25, 1.4),
            open=draws.chance(0.38),
            gap=draws.uniform(0.01, 0.05),
            upper=draws.uniform(0.018, 0.034),
            lower=draws.uniform(0.022, 0.046),
            lip_tone=draws.colour(LIPS, 0.05),
            teeth=draws.colour(TEETH, 0.02),
        )

    def paint(self, colour: Tensor, face: Face, level: Tensor) -> Tensor:
        """Paint lips, teeth and the line between the lips, (B, 3, H, W) to the same."""
        head = face.head
        u = head.turned - head.yaw * 0.1
        gap = self.open * self.gap
        swell = (1 - (u / self.width) ** 2).clamp(min=0)  # lips taper towards the corners
        line = level - self.smile * (u * u - self.width * self.width * 0.5)
        below = head.v - line
        inside = head.cover(u.abs() - self.width)
        lips = head.skin * channels(0.4 + 0.45 * face.lambert) * self.lip_tone

        cupid = 1 - 0.28 * glow((u, 0.025))
        upper = intersection(below, -(below + (self.upper * cupid + gap * 0.4) * swell))
        colour = over(colour, lips * 0.88, head.cover(upper) * inside)
        lower = intersection(-below, below - (self.lower + gap) * swell)
        shine = 1 + 0.25 * glow((below - 0.6 * self.lower - gap, 0.012))
        colour = over(colour, (lips * channels(shine)).clamp(0, 1), head.cover(lower) * inside)

        is_open = (gap > 0).float()
        opening = intersection(-(below + gap * 0.35 * swell), below - gap * swell)
        colour = over(colour, self.teeth, head.cover(opening) * inside * is_open)
        parting = head.cover(below.abs() - 0.007) * inside * (0.85 - 0.6 * is_open)
        return over(colour, head.skin * 0.28, parting)

"""Hair: its texture, the mass behind the head, and the fringe in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, ellipse, glow, intersection, over, union
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.head import Head


@dataclass(frozen=True)
class HairTraits:
    """Texture and cut. Fields in stream order."""

    waves: Tensor
    strand_frequency: Tensor
    waviness: Tensor
    strand_phase: Tensor
    curls: Tensor
    curly: Tensor
    sheen_radius: Tensor
    sheen_strength: Tensor
    contrast: Tensor
    long: Tensor
    bald: Tensor
    length: Tensor
    width: Tensor
    flare_frequency: Tensor
    flare_phase: Tensor
    flared: Tensor
    crown_height: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            waves=draws.noise(7, 7),
            strand_frequency=draws.uniform(16, 34),
            waviness=draws.uniform(0.8, 3.5),
            strand_phase=draws.uniform(0, 6),
            curls=draws.noise(22, 22),
            curly=draws.chance(0.25),
            sheen_radius=draws.uniform(0.5, 0.66),
            sheen_strength=draws.uniform(0, 0.5),
            contrast=draws.uniform(0.16, 0.42),
            long=draws.chance(0.48),
            bald=draws.chance(0.08),
            length=draws.uniform(0.25, 1.1),
            width=draws.uniform(0.07, 0.2),
            flare_frequency=draws.uniform(2, 5),
            flare_phase=draws.uniform(0, 6),
            flared=draws.chance(0.6),
            crown_height=draws.uniform(0.0, 0.12),
        )


@dataclass(frozen=True)
class FringeTraits:
    """The hair on the forehead and temples. Fields in stream order."""

    height: Tensor
    parting: Tensor
    slope: Tensor
    curve: Tensor
    raggedness: Tensor
    strandiness: Tensor
    margin: Tensor
    top_margin: Tensor
    temple: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            height=draws.uniform(-0.50, -0.22),
            parting=draws.uniform(-0.3, 0.3),
            slope=draws.uniform(-0.5, 0.6),
            curve=draws.uniform(0.2, 2.2),
            raggedness=draws.uniform(0, 1.5),
            strandiness=draws.uniform(0, 1),
            margin=draws.uniform(0.02, 0.09),
            top_margin=draws.uniform(0.02, 0.12),
            temple=draws.uniform(0.84, 0.97),
        )


class Hair:
    """The hair of one head: ``colour`` (B, 3, H, W), textured and lit, and the shapes it takes."""

    def __init__(self, traits: HairTraits, head: Head) -> None:
        self.traits, self.head = traits, head
        u, v = head.u, head.v
        around_crown = torch.atan2(v + 0.75, u)
        radius = torch.sqrt(u * u + (v + 0.2) ** 2)
        combed = torch.sin(
            around_crown * traits.strand_frequency + traits.waves * traits.waviness + traits.strand_phase
        )
        fine = torch.sin(around_crown * traits.strand_frequency * 2.3 - traits.waves * 3)
        straight = combed * 0.55 + fine * 0.45
        self.strands = straight * (1 - traits.curly) + traits.curls * 1.1 * traits.curly
        sheen = glow((radius - traits.sheen_radius, 0.12)) * traits.sheen_strength
        light_x, light_y, _ = head.light
        lit = 0.72 + 0.45 * (0.5 + 0.5 * (u * light_x * 1.6 + v * light_y))
        texture = 1 + traits.contrast * self.strands + sheen
        self.colour = (head.hair * channels(texture) * channels(lit) + channels(0.06 * sheen)).clamp(0, 1)
        self.shown = 1 - traits.bald

    def paint_back(self, image: Tensor) -> Tensor:
        """Paint what is behind head and neck."""
        traits, head = self.traits, self.head
        u, v = head.u, head.v
        half_width = head.half_width + traits.width
        flare = 0.10 * torch.sin(v * traits.flare_frequency + traits.flare_phase) * traits.flared
        curtain = intersection(u.abs() - (half_width + flare), v - traits.length, -(v + 0.2))
        crown = ellipse(u, v + 0.12, half_width, head.half_height + traits.crown_height - 0.02)
        cap = (crown - 1) * head.half_width
        shape = union(cap, curtain) * traits.long + intersection(cap, v - 0.1) * (1 - traits.long)
        shape = shape + 0.02 * traits.curls
        return over(image, self.colour * 0.72, head.cover(shape) * self.shown)

    def paint_fringe(self, image: Tensor, fringe: FringeTraits, face: Tensor) -> Tensor:
        """Paint the fringe, the temples, and the shadow that they cast on the face of coverage ``face`` (B, H, W)."""
        traits, head = self.traits, self.head
        u, v, half_width = head.u, head.v, head.half_width
        from_parting = u - fringe.parting
        line = fringe.height + fringe.slope * from_parting * 0.5 + fringe.curve * (from_parting * from_parting - 0.05)
        line = line + 0.06 * traits.waves * fringe.raggedness + 0.035 * self.strands * fringe.strandiness
        dome = ellipse(u, v + 0.06, half_width + fringe.margin, head.half_height + fringe.top_margin)
        top = (dome - 1) * half_width + 0.015 * traits.curls
        front = intersection(top, v - line, v - 0.25)
        sides = intersection(-(u.abs() - half_width * fringe.temple), top - 0.05, -(v + 0.5))
        sides = intersection(sides, v - traits.length * traits.long - 0.1 * (1 - traits.long))
        shadow = torch.exp(-(((v - line) / 0.05).clamp(min=0) ** 2)) * face * head.cover(top) * self.shown
        image = image * channels(1 - 0.28 * shadow)
        return over(image, self.colour, head.cover(union(front, sides)) * self.shown)

"""The face: its outline, its shading by the light, cheeks, eye sockets, nose and freckles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, glow
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.head import Head


@dataclass(frozen=True)
class FaceTraits:
    """Traits of the face. Fields in stream order."""

    mottle: Tensor
    blush: Tensor
    eye_distance: Tensor
    eye_level: Tensor
    socket: Tensor
    nose_level: Tensor
    nose_width: Tensor
    nose_shadow: Tensor
    freckles: Tensor
    freckled: Tensor
    freckle_strength: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            mottle=draws.noise(12, 12),
            blush=draws.uniform(0, 0.16),
            eye_distance=draws.uniform(0.17, 0.215),
            eye_level=draws.uniform(-0.10, 0.0),
            socket=draws.uniform(0.05, 0.22),
            nose_level=draws.uniform(0.19, 0.27),
            nose_width=draws.uniform(0.055, 0.1),
            nose_shadow=draws.uniform(0.22, 0.42),
            freckles=draws.noise(34, 34, "bilinear"),
            freckled=draws.chance(0.16),
            freckle_strength=draws.uniform(0.15, 0.4),
        )


class Face:
    """The front of a head: signed distance ``outline``, ``lambert`` light, and where eyes and nose are."""

    def __init__(self, traits: FaceTraits, head: Head) -> None:
        self.traits, self.head = traits, head
        u, v, height = head.u, head.v, head.half_height
        half_width = head.half_width * (1 - head.jaw * (v / height).clamp(0, 1) ** 2)
        normal_x, normal_y = u / half_width, v / height
        self.outline = (torch.sqrt(normal_x**2 + normal_y**2) - 1) * head.half_width
        normal_z = torch.sqrt((1 - normal_x * normal_x * 0.9 - normal_y * normal_y * 0.8).clamp(min=0.02))
        light_x, light_y, light_z = head.light
        self.lambert = (normal_x * light_x + normal_y * light_y + normal_z * light_z).clamp(min=0)
        self.eye_distance = traits.eye_distance
        self.eye_level = traits.eye_level + head.pitch
        self.nose_level = traits.nose_level + head.pitch

    def paint(self) -> Tensor:
        """Return the colours of the bare face over the whole picture, (B, 3, size, size), not cut out yet."""
        head, traits = self.head, self.traits
        u, v = head.turned, head.v
        shade = head.ambient + (1.08 - head.ambient) * self.lambert + 0.025 * traits.mottle
        colour = head.skin * channels(shade)
        cheeks = torch.exp(-((u - 0.22) ** 2 + (v - 0.17) ** 2) / 0.016)
        cheeks = cheeks + torch.exp(-((u + 0.22) ** 2 + (v - 0.17) ** 2) / 0.016)
        blush = traits.blush * cheeks
        colour = colour * torch.stack([1 + 0.2 * blush, 1 - 1.1 * blush, 1 - 0.8 * blush], 1)
        sockets = glow((u.abs() - self.eye_distance, 0.12), (v - self.eye_level + 0.02, 0.09))
        colour = self._paint_nose(colour * channels(1 - traits.socket * sockets))
        zone = glow((u, 0.3), (v - 0.13, 0.13))
        spots = ((traits.freckles - 0.25) * 4).clamp(0, 1)
        return colour * channels(1 - traits.freckled * traits.freckle_strength * zone * spots)

    def _paint_nose(self, colour: Tensor) -> Tensor:
        head, traits = self.head, self.traits
        u, v, level, width = head.turned - head.yaw * 0.35, head.v, self.nose_level, traits.nose_width
        below_eyes, above_tip = v - self.eye_level, torch.sigmoid((level + 0.02 - v) * 40)
        ridge = glow((u, 0.035)) * torch.sigmoid(below_eyes * 30) * above_tip
        side = torch.tanh(u / 0.04) * glow((u, 0.085)) * torch.sigmoid(below_eyes * 25) * above_tip
        colour = colour * channels(1 + 0.14 * ridge + 0.30 * side * head.light[0] * 1.2)
        underside = glow((u, width * 0.9), (v - level - 0.045, 0.022))
        colour = colour * channels(1 - traits.nose_shadow * underside)
        nostrils = glow((u.abs() - width * 0.62, 0.022), (v - level - 0.022, 0.016))
        colour = colour * channels(1 - 0.5 * nostrils)
        highlight = glow((u, 0.028), (v - level + 0.02, 0.03))
        return colour + channels(0.12 * highlight * head.ambient)

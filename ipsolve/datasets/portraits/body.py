"""Neck, shoulders and clothes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels, coverage, glow, hsv, intersection, over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.head import Head


@dataclass(frozen=True)
class Body:
    """Traits of the body. Fields in stream order."""

    neck_width: Tensor
    shoulder_height: Tensor
    shoulder_width: Tensor
    weave: Tensor
    weave_frequency: Tensor
    hue: Tensor
    saturation: Tensor
    value: Tensor
    hue_shift: Tensor
    second_saturation: Tensor
    second_value: Tensor
    folds: Tensor
    v_neck: Tensor
    neckline_depth: Tensor
    trim_width: Tensor
    trimmed: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Self:
        return cls(
            neck_width=draws.uniform(0.17, 0.25),
            shoulder_height=draws.uniform(0.86, 1.0),
            shoulder_width=draws.uniform(0.75, 1.05),
            weave=draws.uniform(),
            weave_frequency=draws.uniform(9, 24),
            hue=draws.uniform(),
            saturation=draws.uniform(0.1, 0.85),
            value=draws.uniform(0.15, 0.95),
            hue_shift=draws.uniform(0.2, 0.8),
            second_saturation=draws.uniform(0, 0.7),
            second_value=draws.uniform(0.2, 1),
            folds=draws.noise(4, 9),
            v_neck=draws.chance(0.5),
            neckline_depth=draws.uniform(0.08, 0.3),
            trim_width=draws.uniform(0.015, 0.05),
            trimmed=draws.chance(0.7),
        )

    def paint(self, image: Tensor, head: Head) -> Tensor:
        """Paint neck, clothes, neckline and the shadow of the chin."""
        u, v, light_x = head.u, head.v, head.light[0]
        widening = 0.25 * (v - 0.75).clamp(min=0)
        neck = intersection(u.abs() - self.neck_width - widening, -(v - 0.3), v - 1.2)
        shade = 0.62 + 0.25 * ((v - 0.6) / 0.4).clamp(0, 1) + 0.25 * (u * light_x / self.neck_width).clamp(-0.6, 0.6)
        image = over(image, head.skin * channels(shade), head.cover(neck))

        x = head.frame.x - head.centre_x * 0.7
        y = head.frame.y - (head.centre_y + head.scale * self.shoulder_height)
        rounded = (x.abs() / self.shoulder_width) ** 2.6 + ((y - 0.5).abs() / 0.62) ** 2.6
        shoulders = coverage((torch.sqrt(rounded) - 1) * 0.6, head.frame.pixel)
        second = hsv((self.hue + self.hue_shift) % 1, self.second_saturation, self.second_value)
        first = hsv(self.hue, self.saturation, self.value)
        cloth = first + (second - first) * channels(self._weave(x, y) * 0.5 + 0.5)
        cloth = cloth * channels(0.82 + 0.16 * self.folds + 0.25 * x * light_x)
        image = over(image, cloth, shoulders)

        neckline = self._neckline(x, y)
        skin = head.skin * channels(0.8 + 0.15 * x * light_x)
        image = over(image, skin, coverage(neckline, head.frame.pixel) * shoulders)
        trim = coverage(neckline.abs() - self.trim_width, head.frame.pixel) * shoulders * self.trimmed
        image = over(image, second * 0.8, trim)
        chin = glow((v - head.half_height - 0.06, 0.1), (u, 0.3))
        # the shadow falls where the neck is, with the picture's edge width: part of the data set's definition
        return image * channels(1 - 0.35 * chin * coverage(neck, head.frame.pixel))

    def _weave(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mix of the two cloth colours, -1..1: bands, stripes, plaid, dots or plain."""
        warp = torch.sin(x * self.weave_frequency)
        weft = torch.sin(y * self.weave_frequency + 0.6 * x**2 * self.weave_frequency)
        bands = (weft * 3).clamp(-1, 1) * (self.weave < 0.25).float()
        stripes = (warp * 3).clamp(-1, 1) * ((self.weave > 0.25) & (self.weave < 0.42)).float()
        plaid = ((warp + weft) * 0.5) * ((self.weave > 0.42) & (self.weave < 0.6)).float()
        dots = ((warp * weft - 0.45) * 5).clamp(-1, 1) * ((self.weave > 0.6) & (self.weave < 0.74)).float()
        return bands + stripes + plaid + dots - (self.weave > 0.74).float()

    def _neckline(self, x: Tensor, y: Tensor) -> Tensor:
        pointed = y + x.abs() * 1.4 - self.neckline_depth + 0.12
        radius = torch.sqrt((x / 0.34) ** 2 + ((y + 0.12) / (self.neckline_depth + 0.06)) ** 2)
        scooped = radius * 0.3 - 0.3
        return intersection(pointed * self.v_neck * 0.6 + scooped * (1 - self.v_neck), x.abs() - 0.42)

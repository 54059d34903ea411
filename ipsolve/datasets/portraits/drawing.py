"""Drawing with signed distances: negative inside a shape, and one pixel of soft edge for antialiasing."""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(distance: Tensor, edge: Tensor | float) -> Tensor:
    """Return how much of each pixel a shape covers, 0..1, from its signed distance; ``edge`` is the ramp's width."""
    return (0.5 - distance / edge).clamp(0, 1)


def over(image: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """Lay ``colour`` (B, 3, H or 1, W or 1) over ``image`` (B, 3, H, W) with opacity ``alpha`` (B, H, W)."""
    return torch.lerp(image, colour.expand_as(image), alpha[:, None])


def channels(field: Tensor) -> Tensor:
    """Turn a field or a number per image, (B, H, W), into (B, 1, H, W), to multiply or add to colours."""
    return field[:, None]


def glow(*offsets: tuple[Tensor, Tensor | float]) -> Tensor:
    """Return exp(-sum (offset / width)^2): a soft blob in as many coordinates as there are pairs."""
    exponent = torch.zeros(())
    for offset, width in offsets:
        exponent = exponent + (offset / width) ** 2
    return torch.exp(-exponent)


def ellipse(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
    """Return the radius of (x, y) in an ellipse: 1 on its edge."""
    return torch.sqrt((x / half_width) ** 2 + (y / half_height) ** 2)


def union(*distances: Tensor) -> Tensor:
    """Return the signed distance of the union of shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def intersection(*distances: Tensor) -> Tensor:
    """Return the signed distance of the intersection of shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.maximum(result, distance)
    return result


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor) -> Tensor:
    """Return the RGB colour (B, 3, 1, 1) of hue, saturation and value in 0..1, each (B, 1, 1)."""
    rgb = []
    for offset in (5, 3, 1):
        k = (offset + hue * 6) % 6
        rgb.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(rgb, 1).view(hue.shape[0], 3, 1, 1)


def grey(like: Tensor, value: float) -> Tensor:
    """Return a constant colour of the shape of ``like``."""
    return torch.full_like(like, value)

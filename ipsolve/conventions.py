"""The units that every number of ipsolve is in, said once.

Images are float32 tensors of shape (B, 3, H, W) with values in [-1, 1]. The noise level ``noise_std`` is the
standard deviation of the noise **in those units**, as in the code of DPS, ReSample and DAPS; papers and
repositories that state it on [0, 1] images (DDNM, DDRM, RED-diff) mean half of the same figure.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNITS = (
    "images in [-1, 1]; noise_std in the same units (half of it on a [0, 1] scale); "
    "psnr, ssim on [0, 1] with data range 1; consistency = ||A x - y|| / (noise_std sqrt(m)), 1 is the noise level"
)


def to_unit_range(x: Tensor) -> Tensor:
    """Map images from [-1, 1] to [0, 1], clipped. Shape is kept."""
    return (x.clamp(-1, 1) + 1) / 2


def to_uint8(x: Tensor) -> Tensor:
    """Map images from [-1, 1] to rounded uint8 in 0..255. Shape is kept."""
    return (to_unit_range(x) * 255).round().to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """Map uint8 images 0..255 to float32 in [-1, 1]. Shape is kept."""
    return x.to(torch.float32) / 127.5 - 1


def per_image(values: Tensor | float, like: Tensor) -> Tensor | float:
    """Shape one value per image, (B,), to multiply ``like``, (B, ...), in its precision. Scalars pass through."""
    if not isinstance(values, Tensor) or values.ndim != 1:
        return values
    shaped = values.reshape(-1, *[1] * (like.ndim - 1))
    return shaped.to(like.real.dtype) if shaped.is_floating_point() else shaped


def squared_norm(x: Tensor) -> Tensor:
    """Return ||x||^2 of each image, (B, ...) -> (B,): a norm is never taken over the batch."""
    return x.flatten(1).square().sum(1)


def norm(x: Tensor) -> Tensor:
    """Return ||x|| of each image, (B, ...) -> (B,)."""
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return length

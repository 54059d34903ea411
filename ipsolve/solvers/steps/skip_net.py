"""The untrained network of the deep image prior, one for each image of a batch.

Ulyanov, Vedaldi & Lempitsky 2018 (arXiv 1711.10925): an hourglass of ``scales`` halvings with narrow skip connections.
Every image has weights of its own, so that all of them are tensors (k, ...), and a convolution of the batch is one
grouped convolution. Normalisation is that of each image over its own pixels, which is batch normalisation of a batch of
one. Convolutions before a normalisation have no bias: it would be subtracted again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ipsolve.randomness import ImageRng

_SLOPE = 0.2  # of leaky ReLU
_EPS = 1e-5  # of normalisation, that of torch


@dataclass(frozen=True)
class SkipNet:
    """The architecture. An image that is too small for ``scales`` halvings has fewer: none gets below 2 pixels.

    Attributes:
        in_channels: of the input.
        out_channels: of the image.
        size: of both, (H, W), each at least 2; any parity.
        channels: of the convolutions.
        skip_channels: of the skip connections.
        scales: halvings.
    """

    in_channels: int
    out_channels: int
    size: tuple[int, int]
    channels: int
    skip_channels: int
    scales: int

    @property
    def depth(self) -> int:
        """The number of halvings that the size allows."""
        side, depth = min(self.size), 0
        while depth < self.scales and -(-side // 2) >= 2:
            side, depth = -(-side // 2), depth + 1
        return depth

    def shapes(self) -> Iterator[tuple[int, int, int]]:
        """Yield (outputs, inputs, kernel size) of the convolutions, in the order of use."""
        c, s = self.channels, self.skip_channels
        for scale in range(self.depth):
            inputs = c if scale else self.in_channels
            yield s, inputs, 1
            yield c, inputs, 3
            yield c, c, 3
        for _ in range(self.depth):
            yield c, s + c, 3
            yield c, c, 1
        yield self.out_channels, c if self.depth else self.in_channels, 1

    def draw(self, rng: ImageRng, dtype: torch.dtype) -> list[Tensor]:
        """Draw the weights of a network for each stream, as torch initialises: U(-1, 1) / sqrt(fan in)."""
        weights: list[Tensor] = []
        shapes = list(self.shapes())
        for outputs, inputs, size in shapes:
            bound = 1 / math.sqrt(inputs * size**2)
            weights.append(bound * (2 * rng.uniform(outputs, inputs, size, size, dtype=dtype) - 1))
        outputs, inputs, _ = shapes[-1]
        weights.append((2 * rng.uniform(outputs, dtype=dtype) - 1) / math.sqrt(inputs))
        for width in self._widths():
            ones = weights[0].new_ones(rng.batch_size, width)
            weights += [ones, torch.zeros_like(ones)]
        return weights

    def _widths(self) -> Iterator[int]:
        """Yield the channels of the normalisations, in the order of use."""
        c, s = self.channels, self.skip_channels
        for _ in range(self.depth):
            yield from (s, c, c)
        for _ in range(self.depth):
            yield from (s + c, c, c)

    def __call__(self, weights: list[Tensor], z: Tensor) -> Tensor:
        """Return the images in [-1, 1], (k, out_channels, H, W), of inputs z, (k, in_channels, H, W)."""
        convolutions = 5 * self.depth + 1
        kernels = iter(weights[:convolutions])
        bias, affine = weights[convolutions], iter(weights[convolutions + 1 :])

        def normed(x: Tensor) -> Tensor:
            return _normalise(x, next(affine), next(affine))

        def layer(x: Tensor, stride: int = 1) -> Tensor:
            return F.leaky_relu(normed(_convolve(x, next(kernels), stride)), _SLOPE)

        skips, x = [], z
        for _ in range(self.depth):
            skips.append(layer(x))
            x = layer(layer(x, stride=2))
        for skip in reversed(skips):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = layer(layer(normed(torch.cat([skip, x], 1))))
        x = _convolve(x, next(kernels)) + bias[..., None, None]
        return 2 * torch.sigmoid(x) - 1


def _convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolve each image with its own kernels, (k, in, H, W), (k, out, in, n, n); borders are reflected."""
    k, pad = len(x), weight.shape[-1] // 2
    if pad:
        x = F.pad(x, [pad] * 4, mode="reflect")
    out = F.conv2d(x.reshape(1, -1, *x.shape[-2:]), weight.flatten(0, 1), stride=stride, groups=k)
    return out.reshape(k, -1, *out.shape[-2:])


def _normalise(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Normalise each channel of each image over its pixels."""
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) * (variance + _EPS).rsqrt() * gain[..., None, None] + offset[..., None, None]

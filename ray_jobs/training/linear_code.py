"""The linear code that the autoencoder starts from: PCA of 4 x 4 patches, and an encoder that computes it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

PATCH = 4
_PINNED = 8.0  # size of the constant channels that hold the last GroupNorm's divisor in place
_LOG_VARIANCE = -6.0  # of the posterior at the start


class PatchCode(nn.Module):
    """z = basis (patch - mean): the leading principal components of non-overlapping 4 x 4 patches, whitened.

    Buffers ``basis`` (k, 3, 4, 4), orthogonal rows that give z unit variance, and ``mean`` (3, 4, 4).
    """

    basis: Tensor
    mean: Tensor

    def __init__(self, basis: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.register_buffer("mean", mean)

    @classmethod
    def fit(cls, images: Tensor, components: int) -> PatchCode:
        """Return the code of ``images`` (B, 3, H, W): eigenvectors of the patch covariance in float64."""
        patches = F.unfold(images.double(), PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2)
        mean = patches.mean(0)
        variances, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        basis = (vectors / variances.clamp(min=1e-8).sqrt()).flip(1).T[:components]
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()  # an eigenvector's sign is arbitrary, and the code should not be
        return cls(basis.reshape(-1, 3, PATCH, PATCH).float(), mean.reshape(3, PATCH, PATCH).float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the code of images, (B, 3, H, W) -> (B, k, H/4, W/4)."""
        offset = (self.basis * self.mean).sum((1, 2, 3))
        return F.conv2d(x, self.basis, -offset, stride=PATCH)


@torch.no_grad()
def initialise_encoder(vae: AutoencoderKL, code: PatchCode) -> None:
    """Set the weights of ``vae``'s encoder so that its posterior mean is ``code``, nearly (1 % off, from GroupNorm).

    Residual branches end in zero and shortcuts are identities; the first stride-2 convolution only moves pixels
    into channels and the second applies the basis. The last SiLU is undone by carrying +z and -z, since
    silu(z) - silu(-z) = z; constants of +-8 in each group keep the last GroupNorm's divisor nearly the same for
    all images. Needs three levels with one residual block each and no attention.
    """
    encoder, count = vae.encoder, len(code.basis)
    for block in [*(down.resnets[0] for down in encoder.down_blocks), *encoder.mid_block.resnets]:
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
    _clear(encoder.conv_in, range(3))
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1

    fold = encoder.down_blocks[0].downsamplers[0].conv
    _clear(fold, range(12))
    for dy, dx, channel in itertools.product(range(2), range(2), range(3)):
        fold.weight[_folded(dy, dx, channel), channel, dy, dx] = 1
    _set_identity(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)

    project = encoder.down_blocks[1].downsamplers[0].conv
    _clear(project, range(count))
    project.bias[:count] = -(code.basis * code.mean).sum((1, 2, 3))
    for oy, ox, dy, dx, channel in itertools.product(*[range(2)] * 4, range(3)):
        project.weight[:count, _folded(dy, dx, channel), oy, ox] = code.basis[:, channel, 2 * oy + dy, 2 * ox + dx]

    _set_signed_pairs(encoder, count)
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    nn.init.dirac_(vae.post_quant_conv.weight)
    nn.init.zeros_(vae.post_quant_conv.bias)


def _folded(dy: int, dx: int, channel: int) -> int:
    return 3 * (2 * dy + dx) + channel


def _clear(conv: nn.Conv2d, outputs: range) -> None:
    conv.weight[outputs.start : outputs.stop] = 0
    if conv.bias is not None:
        conv.bias[outputs.start : outputs.stop] = 0


def _set_identity(conv: nn.Conv2d, count: int) -> None:
    _clear(conv, range(count))
    for channel in range(count):
        conv.weight[channel, channel, 0, 0] = 1


def _set_signed_pairs(encoder: Any, count: int) -> None:
    """Route code channel j as (+z_j, -z_j) through the last norm and SiLU, and subtract the pair in conv_out."""
    split = encoder.down_blocks[2].resnets[0].conv_shortcut
    norm = encoder.conv_norm_out
    width = split.out_channels // norm.num_groups
    per_group = -(-count // norm.num_groups)
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    encoder.conv_out.bias[count:] = _LOG_VARIANCE
    for group in range(-(-count // per_group)):
        start = group * width
        carried = range(group * per_group, min(count, (group + 1) * per_group))
        _clear(split, range(start, start + width))
        for place, (channel, sign) in enumerate(itertools.product(carried, (1.0, -1.0)), start):
            split.weight[place, channel, 0, 0] = sign
            encoder.conv_out.weight[channel, place, 1, 1] = sign
        pinned = start + 2 * len(carried)
        split.bias[pinned], split.bias[pinned + 1] = _PINNED, -_PINNED
        norm.weight[start : start + width] = ((2 * len(carried) + 2 * _PINNED**2) / width) ** 0.5

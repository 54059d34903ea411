"""The magnitude-preserving network of EDM2: Karras et al. 2024, arXiv 2312.02696, appendix B, configuration G.

Weights are normalised and gains multiplied in when a checkpoint is converted (eq. 47 and 66), which leaves ordinary
convolutions here. Modules are called as in NVlabs/edm2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.priors.networks.preconditioning import PreconditionedUNet, Pyramid
from ipsolve.requests.validation import build

Count = Annotated[int, Field(ge=1)]
Change = Literal["keep", "up", "down"]
HEAD_CHANNELS = 64
BRANCH = 0.3  # weight of a residual branch and of attention (eq. 88)
LARGEST = 256.0  # activations are clipped there
SMALLEST = 1e-4  # added to a norm before it divides


@dataclass(frozen=True, config={"extra": "forbid"})
class Edm2Config(Pyramid):
    """The architecture of a network.

    Args:
        sample_size, in_channels, out_channels: of images.
        widths: channels of each resolution, finest first.
        attention: whether each resolution has attention; the middle always has.
        num_blocks: residual blocks for each resolution on the way down, one less than on the way up.
        noise_channels, emb_channels: width of the features of the noise level, and of the embedding.
        num_class_embeds: number of classes; None for an unconditional network.
        sigma_data: standard deviation of the images it was trained with.
    """

    sample_size: Count
    widths: Annotated[tuple[Count, ...], Field(min_length=1)]
    attention: tuple[bool, ...]
    num_blocks: Count
    noise_channels: Count
    emb_channels: Count
    in_channels: Count = 3
    out_channels: Count = 3
    num_class_embeds: Count | None = None
    sigma_data: Annotated[float, Field(gt=0)] = 0.5

    def __post_init__(self) -> None:
        self.require_levels(len(self.widths), "widths")


def unit(x: Tensor, dims: int | list[int]) -> Tensor:
    """Return x with root mean square 1 over ``dims``, as far as it is not tiny (eq. 30)."""
    rms = x.square().mean(dims, keepdim=True).sqrt()
    return x / (rms + SMALLEST)


def blend(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return the magnitude-preserving sum of two signals (eq. 88)."""
    return ((1 - weight) * a + weight * b) / math.hypot(1 - weight, weight)


def silu(x: Tensor) -> Tensor:
    """Return the magnitude-preserving SiLU (eq. 81)."""
    return F.silu(x) / 0.596


def join(a: Tensor, b: Tensor) -> Tensor:
    """Return the channels of two signals, each with the same share of the magnitude (eq. 103)."""
    total = math.sqrt((a.shape[1] + b.shape[1]) / 2)
    return torch.cat([a * (total / math.sqrt(a.shape[1])), b * (total / math.sqrt(b.shape[1]))], dim=1)


def convolution(channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """A block of the encoder or decoder (fig. 21), (B, C, H, W), (B, E)."""

    def __init__(
        self, channels: int, out_channels: int, emb_channels: int, encoder: bool, attends: bool, change: Change = "keep"
    ) -> None:
        super().__init__()
        self.encoder, self.change = encoder, change
        self.heads = max(out_channels // HEAD_CHANNELS, 1) if attends else 0
        self.conv_res0 = convolution(out_channels if encoder else channels, out_channels, 3)
        self.emb_linear = nn.Linear(emb_channels, out_channels, bias=False)
        self.conv_res1 = convolution(out_channels, out_channels, 3)
        self.conv_skip = nn.Identity() if channels == out_channels else convolution(channels, out_channels, 1)
        if attends:
            self.attn_qkv = convolution(out_channels, 3 * out_channels, 1)
            self.attn_proj = convolution(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.change == "down":
            x = F.avg_pool2d(x, 2)
        elif self.change == "up":
            x = F.interpolate(x, scale_factor=2.0)
        if self.encoder:
            x = unit(self.conv_skip(x), 1)
        gain = 1 + self.emb_linear(emb)[:, :, None, None]
        branch = self.conv_res1(silu(gain * self.conv_res0(silu(x))))
        x = blend(x if self.encoder else self.conv_skip(x), branch, BRANCH)
        if self.heads:
            x = blend(x, self._attention(x), BRANCH)
        return x.clamp(-LARGEST, LARGEST)

    def _attention(self, x: Tensor) -> Tensor:
        # rows of the joint projection: by head, by channel, and q, k, v within
        joint = unit(self.attn_qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3)), 2)
        q, k, v = joint.permute(3, 0, 1, 4, 2)  # each (B, heads, H W, C / heads)
        return self.attn_proj(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))  # type: ignore[no-any-return]


class Edm2UNet(PreconditionedUNet):
    """EDM2 with its preconditioning: the denoised image at sigma; see :class:`PreconditionedUNet`."""

    def __init__(self, config: Edm2Config) -> None:
        super().__init__("edm", config.sigma_data)
        self.config = {"_class_name": type(self).__name__, **dataclasses.asdict(config)}
        emb, widths, last = config.emb_channels, config.widths, len(config.widths) - 1
        self.emb_fourier = nn.Module()
        for name in ("freqs", "phases"):
            self.emb_fourier.register_buffer(name, torch.empty(config.noise_channels))
        self.emb_noise = nn.Linear(config.noise_channels, emb, bias=False)
        if config.num_class_embeds:
            self.emb_label = nn.Linear(config.num_class_embeds, emb, bias=False)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels = widths[0]
        # a channel of ones stands for the biases
        self.enc[config.at(0, "conv")] = convolution(config.in_channels + 1, channels, 3)
        skips = [channels]
        for level, width in enumerate(widths):
            if level:
                self.enc[config.at(level, "down")] = Block(channels, channels, emb, True, False, "down")
                skips.append(channels)
            for index in range(config.num_blocks):
                block = Block(channels, width, emb, True, config.attention[level])
                self.enc[config.at(level, f"block{index}")] = block
                channels = width
                skips.append(channels)
        for level in reversed(range(last + 1)):
            if level == last:
                self.dec[config.at(level, "in0")] = Block(channels, channels, emb, False, True)
                self.dec[config.at(level, "in1")] = Block(channels, channels, emb, False, False)
            else:
                self.dec[config.at(level, "up")] = Block(channels, channels, emb, False, False, "up")
            for index in range(config.num_blocks + 1):
                block = Block(channels + skips.pop(), widths[level], emb, False, config.attention[level])
                self.dec[config.at(level, f"block{index}")] = block
                channels = widths[level]
        self.out_conv = convolution(channels, config.out_channels, 3)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the network of a ``config.json``, its weights not set; RequestError where it describes none."""
        return cls(build(Edm2Config, {key: value for key, value in config.items() if key != "_class_name"}, ""))

    def raw(self, x: Tensor, noise: Tensor, class_labels: Tensor | None) -> Tensor:
        angles = noise[:, None] * self.emb_fourier.freqs + self.emb_fourier.phases  # type: ignore[operator]
        emb = self.emb_noise(math.sqrt(2) * angles.cos())
        if class_labels is not None:
            # the weights of a one-hot vector of classes, whose magnitude is made 1
            label = self.emb_label.weight.T[class_labels] * math.sqrt(self.emb_label.in_features)
            emb = blend(emb, label, 0.5)
        emb = silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            x = module(join(x, skips.pop()) if "block" in name else x, emb)
        return self.out_conv(x)  # type: ignore[no-any-return]

"""The network of guided diffusion (ADM): Dhariwal & Nichol 2021, arXiv 2105.05233, section 3 and appendix B.

A network of its own, not diffusers' ``UNet2DModel``, which holds a part of the family: neither a fixed number of heads
at several widths (128x128_diffusion.pt, improved diffusion) nor a first multiplier other than 1 (512x512_diffusion.pt).
Modules are called as in openai/guided-diffusion, so that weights keep their names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

GROUPS = 32
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config={"extra": "forbid"})
class AdmConfig:
    """The architecture of an ADM network.

    Args:
        sample_size: of the images, pixels.
        model_channels: base width; a resolution has ``channel_mult`` times it.
        channel_mult: a factor for each resolution, finest first.
        attention: whether each resolution has attention; the middle always has.
        num_res_blocks: residual blocks for each resolution on the way down, one less than on the way up.
        in_channels, out_channels: of images, and of the output: twice as many with learned variances.
        num_heads: of every attention, unless ``num_head_channels`` says how wide one is.
        resblock_updown: whether residual blocks change the resolution (BigGAN), not convolutions.
        scale_shift: whether the embedding scales and shifts normalised features (adaptive group normalisation).
        num_class_embeds: number of classes; None for an unconditional network.
        time_scale: what times are multiplied with, 1000 / steps where they were rescaled in training.
    """

    sample_size: Count
    model_channels: Count
    channel_mult: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    attention: tuple[bool, ...]
    num_res_blocks: Count
    in_channels: Count = 3
    out_channels: Count = 6
    num_heads: Count = 4
    num_head_channels: Count | None = None
    resblock_updown: bool = True
    scale_shift: bool = True
    num_class_embeds: Count | None = None
    time_scale: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.channel_mult):
            raise RequestError("attention", "must have as many entries as channel_mult")
        if self.sample_size % 2 ** (len(self.channel_mult) - 1):
            raise RequestError("sample_size", f"{self.sample_size} cannot be halved {len(self.channel_mult) - 1} times")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution."""
        return tuple(int(factor * self.model_channels) for factor in self.channel_mult)

    def heads(self, channels: int) -> int:
        """Return the number of heads of an attention on ``channels`` channels; RequestError if they do not divide."""
        heads, rest = divmod(channels, self.num_head_channels) if self.num_head_channels else (self.num_heads, 0)
        if rest or channels % max(heads, 1) or not heads:
            key = "num_head_channels" if self.num_head_channels else "num_heads"
            raise RequestError(key, f"does not divide the {channels} channels of an attention")
        return heads


class ResBlock(nn.Module):
    """A residual block that may change the resolution, (B, C, H, W), (B, E) -> (B, C', H', W')."""

    def __init__(self, channels: int, out_channels: int, config: AdmConfig, resample: nn.Module | None = None) -> None:
        super().__init__()
        emb_channels = 4 * config.model_channels
        self.scale_shift = config.scale_shift
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, (1 + self.scale_shift) * out_channels))
        dropout = nn.Identity()  # it is one of the published names, and nothing of it is left after training
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels), nn.SiLU(), dropout, nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        self.resample = resample or nn.Identity()
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        normalise, activate, convolve = self.in_layers
        h = convolve(self.resample(activate(normalise(x))))
        condition = self.emb_layers(emb)[:, :, None, None]
        normalise, activate, _, convolve = self.out_layers
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = normalise(h) * (1 + scale) + shift
        else:
            h = normalise(h + condition)
        out: Tensor = self.skip_connection(self.resample(x)) + convolve(activate(h))
        return out


class Attention(nn.Module):
    """Self-attention over the pixels, (B, C, H, W) -> (B, C, H, W); the rows of ``qkv`` are q, k, v, each by head."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2)
        q, k, v = self.qkv(pixels).unflatten(1, (3, self.heads, -1)).mT.unbind(1)  # (B, heads, H W, C / heads)
        out = F.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)
        return x + self.proj_out(out).view_as(x)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Half the resolution by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Twice the resolution by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))  # type: ignore[no-any-return]


class AdmUNet(nn.Module):
    """ADM: a UNet of residual blocks and attention, (B, C, H, W) at times (B,) -> (B, out_channels, H, W).

    The first C channels of the output are what the network predicts (noise, most often); the others, if there are any,
    interpolate the log variance of a reverse step (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15).
    """

    def __init__(self, config: AdmConfig) -> None:
        super().__init__()
        self.architecture = config
        self.config = {"_class_name": type(self).__name__, **dataclasses.asdict(config)}
        base, widths = config.model_channels, config.widths
        self.time_embed = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        if config.num_class_embeds:
            self.label_emb = nn.Embedding(config.num_class_embeds, 4 * base)

        def resampling(channels: int, factor: float) -> nn.Module:
            if config.resblock_updown:
                change = nn.AvgPool2d(2) if factor < 1 else nn.Upsample(scale_factor=2)
                return ResBlock(channels, channels, config, change)
            return Downsample(channels) if factor < 1 else Upsample(channels)

        def stage(channels: int, out_channels: int, attends: bool) -> nn.ModuleList:
            layers: list[nn.Module] = [ResBlock(channels, out_channels, config)]
            if attends:
                layers.append(Attention(out_channels, config.heads(out_channels)))
            return nn.ModuleList(layers)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, channels, 3, padding=1)])])
        skips = [channels]
        for level, (width, attends) in enumerate(zip(widths, config.attention, strict=True)):
            if level:
                self.input_blocks.append(nn.ModuleList([resampling(channels, 0.5)]))
                skips.append(channels)
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(stage(channels, width, attends))
                channels = width
                skips.append(channels)
        self.middle_block = nn.ModuleList([*stage(channels, channels, True), ResBlock(channels, channels, config)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.num_res_blocks + 1):
                self.output_blocks.append(stage(channels + skips.pop(), widths[level], config.attention[level]))
                channels = widths[level]
            if level:
                self.output_blocks[-1].append(resampling(channels, 2))  # type: ignore[operator]
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, config.out_channels, 3, padding=1)
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the network of a ``config.json``, its weights not set; RequestError where it describes none."""
        return cls(build(AdmConfig, {key: value for key, value in config.items() if key != "_class_name"}, ""))

    def forward(
        self, x: Tensor, time: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Return (output,), as networks of diffusers do without ``return_dict``; ``class_labels`` is (B,) int64."""
        emb = self.time_embed(self._features(time).to(x.dtype))
        if class_labels is not None:
            emb = emb + self.label_emb(class_labels)
        skips = []
        for layers in self.input_blocks:
            x = _run(layers, x, emb)
            skips.append(x)
        x = _run(self.middle_block, x, emb)
        for layers in self.output_blocks:
            x = _run(layers, torch.cat([x, skips.pop()], dim=1), emb)
        return (self.out(x),)

    def _features(self, time: Tensor) -> Tensor:
        """Return [cos, sin] of times at geometric frequencies, in float32 whatever the weights are, (B,) -> (B, C)."""
        half = self.architecture.model_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=time.device) / half
        angles = self.architecture.time_scale * time.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def _run(layers: Any, x: Tensor, emb: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
    return x

"""DDPM++, NCSN++ and ADM as Karras et al. 2022 (arXiv 2206.00364, appendix F.2, table 7) train them.

DDPM++ and NCSN++ are the networks of Song et al. 2021 (arXiv 2011.13456, appendix H), so that checkpoints of score_sde
are held, too. Modules are called as in NVlabs/edm, so that weights keep their names: ``enc.64x64_block0.conv0``.
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

from ipsolve.priors.networks.preconditioning import PreconditionedUNet, PreconditioningName, Pyramid
from ipsolve.requests.validation import build

Count = Annotated[int, Field(ge=1)]
Resampling = Literal["keep", "up", "down"]
HEAD_CHANNELS = 64  # of ADM; DDPM++ and NCSN++ have one head


@dataclass(frozen=True, config={"extra": "forbid"})
class EdmConfig(Pyramid):
    """The architecture of a network.

    Args:
        family: ``song`` is DDPM++ and NCSN++, ``adm`` what EDM calls so: embeddings scale and shift features, several
            heads, attention in every block of a resolution on the way up.
        sample_size, in_channels, out_channels: of images.
        model_channels: base width; a resolution has ``channel_mult`` times it.
        channel_mult: a factor for each resolution, finest first.
        attention: whether each resolution has attention; the middle always has.
        num_blocks: residual blocks for each resolution on the way down, one less than on the way up.
        noise_channels, emb_channels: width of the features of the noise level, and of the embedding.
        embedding: features of the noise level: ``positional`` (DDPM++, ADM) or ``fourier`` (NCSN++).
        encoder: how the image reaches lower resolutions beside the blocks: not, as it is, or by convolutions.
        decoder: whether the output is a sum over resolutions (``skip``).
        taps: length of the filter that changes the resolution: 2 ([1, 1]) or 4 (NCSN++: [1, 3, 3, 1]).
        num_class_embeds: number of classes; None for an unconditional network.
        preconditioning, sigma_data: see :class:`PreconditionedUNet`.
    """

    family: Literal["song", "adm"]
    sample_size: Count
    model_channels: Count
    channel_mult: Annotated[tuple[Count, ...], Field(min_length=1)]
    attention: tuple[bool, ...]
    num_blocks: Count
    noise_channels: Count
    emb_channels: Count
    in_channels: Count = 3
    out_channels: Count = 3
    embedding: Literal["positional", "fourier"] = "positional"
    encoder: Literal["standard", "skip", "residual"] = "standard"
    decoder: Literal["standard", "skip"] = "standard"
    taps: Literal[2, 4] = 2
    num_class_embeds: Count | None = None
    preconditioning: PreconditioningName = "edm"
    sigma_data: Annotated[float, Field(gt=0)] = 0.5

    def __post_init__(self) -> None:
        self.require_levels(len(self.channel_mult), "channel_mult")


class Conv(nn.Module):
    """A convolution of 3 x 3 or 1 x 1 pixels after the resolution has changed, or (``kernel`` 0) this change alone.

    With ``late`` the resolution changes after the convolution; over the edge of the image both see zeros.
    """

    resample_filter: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        change: Resampling = "keep",
        taps: int = 2,
        late: bool = False,
    ) -> None:
        super().__init__()
        self.change, self.taps, self.late = change, taps, late
        self.weight = nn.Parameter(torch.empty(out_channels, channels, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if kernel else None
        if change != "keep" and taps != 2:
            self.register_buffer("resample_filter", torch.empty(1, 1, taps, taps))

    def forward(self, x: Tensor) -> Tensor:
        edge = (self.taps - 1) // 2
        if self.weight is None:
            return self._resample(x, edge)
        pixels = self.weight.shape[-1] // 2
        if self.late:
            return self._resample(F.conv2d(x, self.weight, self.bias, padding=pixels + edge), 0)
        x = x if self.change == "keep" else self._resample(x, edge)
        return F.conv2d(x, self.weight, self.bias, padding=pixels)

    def _resample(self, x: Tensor, padding: int) -> Tensor:
        if self.taps == 2:
            return F.avg_pool2d(x, 2) if self.change == "down" else F.interpolate(x, scale_factor=2.0)
        channels = x.shape[1]
        each = self.resample_filter.expand(channels, 1, self.taps, self.taps)
        if self.change == "down":
            return F.conv2d(x, each, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * each, stride=2, padding=padding, groups=channels)


class Block(nn.Module):
    """A residual block that may change the resolution, and attention after it; (B, C, H, W), (B, E)."""

    def __init__(
        self, channels: int, out_channels: int, config: EdmConfig, attends: bool, change: Resampling = "keep"
    ) -> None:
        super().__init__()
        self.adaptive = config.family == "adm"
        self.scale = 1.0 if self.adaptive else math.sqrt(0.5)
        epsilon = 1e-5 if self.adaptive else 1e-6
        self.norm0 = group_norm(channels, epsilon)
        self.conv0 = Conv(channels, out_channels, 3, change, config.taps)
        self.affine = nn.Linear(config.emb_channels, (1 + self.adaptive) * out_channels)
        self.norm1 = group_norm(out_channels, epsilon)
        self.conv1 = Conv(out_channels, out_channels, 3)
        self.skip: nn.Module = nn.Identity()
        if channels != out_channels or change != "keep":
            kernel = 0 if self.adaptive and channels == out_channels else 1
            self.skip = Conv(channels, out_channels, kernel, change, config.taps)
        self.heads = 0
        if attends:
            self.heads = max(out_channels // HEAD_CHANNELS, 1) if self.adaptive else 1
            self.norm2 = group_norm(out_channels, epsilon)
            self.qkv = Conv(out_channels, 3 * out_channels, 1)
            self.proj = Conv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        condition = self.affine(emb)[:, :, None, None]
        if self.adaptive:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + condition)
        x = self.scale * (self.skip(x) + self.conv1(F.silu(h)))
        return self.scale * (x + self._attention(x)) if self.heads else x

    def _attention(self, x: Tensor) -> Tensor:
        # rows of the joint projection: by head, by channel, and q, k, v within
        joint = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.heads, -1, 3))
        q, k, v = joint.permute(3, 0, 1, 4, 2)  # each (B, heads, H W, C / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))  # type: ignore[no-any-return]


class EdmUNet(PreconditionedUNet):
    """DDPM++, NCSN++ or ADM with the preconditioning of a checkpoint; see :class:`PreconditionedUNet`."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__(config.preconditioning, config.sigma_data)
        self.architecture = config
        self.config = {"_class_name": type(self).__name__, **dataclasses.asdict(config)}
        adm = config.family == "adm"
        if config.embedding == "fourier":
            self.map_noise = nn.Module()
            self.map_noise.register_buffer("freqs", torch.empty(config.noise_channels // 2))
        self.map_layer0 = nn.Linear(config.noise_channels, config.emb_channels)
        self.map_layer1 = nn.Linear(config.emb_channels, config.emb_channels)
        if config.num_class_embeds:
            width = config.emb_channels if adm else config.noise_channels
            self.map_label = nn.Linear(config.num_class_embeds, width, bias=not adm)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips: list[int] = []
        channels = self._encoder(config, skips)
        self._decoder(config, channels, skips)
        if adm:
            self.out_norm = group_norm(config.model_channels * config.channel_mult[0], 1e-5)
            self.out_conv = Conv(config.model_channels * config.channel_mult[0], config.out_channels, 3)

    def _encoder(self, config: EdmConfig, skips: list[int]) -> int:
        channels, aux_channels = config.model_channels, config.in_channels
        self.enc[config.at(0, "conv")] = Conv(config.in_channels, channels, 3)
        skips.append(channels)
        for level, factor in enumerate(config.channel_mult):
            if level:
                self.enc[config.at(level, "down")] = Block(channels, channels, config, False, "down")
                if config.encoder == "skip":
                    self.enc[config.at(level, "aux_down")] = Conv(aux_channels, aux_channels, 0, "down", config.taps)
                    self.enc[config.at(level, "aux_skip")] = Conv(aux_channels, channels, 1)
                elif config.encoder == "residual":
                    aux = Conv(aux_channels, channels, 3, "down", config.taps, late=True)
                    self.enc[config.at(level, "aux_residual")] = aux
                    aux_channels = channels
                skips.append(channels)
            for index in range(config.num_blocks):
                width = factor * config.model_channels
                self.enc[config.at(level, f"block{index}")] = Block(channels, width, config, config.attention[level])
                channels = width
                skips.append(channels)
        return channels

    def _decoder(self, config: EdmConfig, channels: int, skips: list[int]) -> None:
        last = len(config.channel_mult) - 1
        for level in reversed(range(last + 1)):
            if level == last:
                self.dec[config.at(level, "in0")] = Block(channels, channels, config, True)
                self.dec[config.at(level, "in1")] = Block(channels, channels, config, False)
            else:
                self.dec[config.at(level, "up")] = Block(channels, channels, config, False, "up")
            for index in range(config.num_blocks + 1):
                width = config.channel_mult[level] * config.model_channels
                attends = config.attention[level] and (config.family == "adm" or index == config.num_blocks)
                block = Block(channels + skips.pop(), width, config, attends)
                self.dec[config.at(level, f"block{index}")] = block
                channels = width
            if config.family == "song" and (config.decoder == "skip" or not level):
                if config.decoder == "skip" and level < last:
                    aux = Conv(config.out_channels, config.out_channels, 0, "up", config.taps)
                    self.dec[config.at(level, "aux_up")] = aux
                self.dec[config.at(level, "aux_norm")] = group_norm(channels, 1e-6)
                self.dec[config.at(level, "aux_conv")] = Conv(channels, config.out_channels, 3)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the network of a ``config.json``, its weights not set; RequestError where it describes none."""
        return cls(build(EdmConfig, {key: value for key, value in config.items() if key != "_class_name"}, ""))

    def raw(self, x: Tensor, noise: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self._embedding(noise, class_labels)
        aux, skips = x, list[Tensor]()
        for name, module in self.enc.items():
            if name.endswith("aux_down"):
                aux = module(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + module(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + module(aux)) * math.sqrt(0.5)
            else:
                x = module(x, emb) if isinstance(module, Block) else module(x)
                skips.append(x)
        out: Tensor | None = None
        for name, module in self.dec.items():
            if name.endswith("aux_up"):
                out = module(out)
            elif name.endswith("aux_norm"):
                features = F.silu(module(x))
            elif name.endswith("aux_conv"):
                out = module(features) if out is None else out + module(features)
            else:
                x = module(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x))) if out is None else out

    def _embedding(self, noise: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return the embedding of noise levels and classes, (B,), (B,) -> (B, E)."""
        config = self.architecture
        half = config.noise_channels // 2
        if config.embedding == "fourier":
            frequencies = 2 * math.pi * self.map_noise.freqs  # type: ignore[operator]
        else:  # those of DDPM++ reach 1 / 10000, those of ADM do not
            steps = torch.arange(half, dtype=noise.dtype, device=noise.device) / (half - (config.family == "song"))
            frequencies = 10000.0**-steps
        angles = noise[:, None] * frequencies
        parts = [angles.cos(), angles.sin()]
        emb = torch.cat(parts if config.family == "adm" else parts[::-1], dim=1)
        # the weights of a one-hot vector of classes
        label = None if class_labels is None else self.map_label.weight.T[class_labels]
        if label is not None and config.family == "song":
            emb = emb + label * math.sqrt(self.map_label.in_features) + self.map_label.bias
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        return F.silu(emb + label if label is not None and config.family == "adm" else emb)


def group_norm(channels: int, epsilon: float) -> nn.GroupNorm:
    """Return a normalisation over groups of at least 4 channels, 32 groups at most."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=epsilon)

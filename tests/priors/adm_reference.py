"""ADM as plain functions of a state dictionary: names, shapes and arithmetic of guided diffusion, no modules.

Written from the architecture (Dhariwal & Nichol 2021, arXiv 2105.05233; UNetModel of openai/guided-diffusion), to check
the conversion against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Names = Iterator[tuple[str, tuple[int, ...]]]


class Architecture(NamedTuple):
    """The defaults are ffhq_10m.pt."""

    channels: int = 128
    mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    attention: tuple[int, ...] = (4,)  # levels
    blocks: int = 1
    heads: int | None = None
    head_channels: int = 64
    new_order: bool = False
    updown: bool = True
    scale_shift: bool = True
    classes: int | None = None
    out_channels: int = 6
    time_scale: float = 1.0

    @property
    def widths(self) -> list[int]:
        return [int(m * self.channels) for m in self.mult]


FFHQ = Architecture()
SMALL = Architecture(channels=32, mult=(1, 2), attention=(1,), head_channels=16)


def random_state(a: Architecture, seed: int = 0) -> State:
    """A checkpoint with random weights; norms and biases are not trivial either."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        return noise if name.startswith("label") else noise / math.sqrt(math.prod(shape[1:]))

    return {name: draw(name, shape) for name, shape in _shapes(a)}


def _shapes(a: Architecture) -> Names:
    emb = 4 * a.channels

    def layer(name: str, *shape: int) -> Names:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    def res(name: str, cin: int, cout: int) -> Names:
        yield from layer(f"{name}.in_layers.0", cin)
        yield from layer(f"{name}.in_layers.2", cout, cin, 3, 3)
        yield from layer(f"{name}.emb_layers.1", cout * (2 if a.scale_shift else 1), emb)
        yield from layer(f"{name}.out_layers.0", cout)
        yield from layer(f"{name}.out_layers.3", cout, cout, 3, 3)
        if cin != cout:
            yield from layer(f"{name}.skip_connection", cout, cin, 1, 1)

    def attention(name: str, c: int) -> Names:
        yield from layer(f"{name}.norm", c)
        yield from layer(f"{name}.qkv", 3 * c, c, 1)
        yield from layer(f"{name}.proj_out", c, c, 1)

    yield from layer("time_embed.0", emb, a.channels)
    yield from layer("time_embed.2", emb, emb)
    if a.classes:
        yield "label_emb.weight", (a.classes, emb)
    c = a.widths[0]
    yield from layer("input_blocks.0.0", c, 3, 3, 3)
    skips, index = [c], 0
    for level, width in enumerate(a.widths):
        for _ in range(a.blocks):
            index += 1
            yield from res(f"input_blocks.{index}.0", c, width)
            if level in a.attention:
                yield from attention(f"input_blocks.{index}.1", width)
            c = width
            skips.append(c)
        if level < len(a.widths) - 1:
            index += 1
            name = f"input_blocks.{index}.0"
            yield from res(name, c, c) if a.updown else layer(f"{name}.op", c, c, 3, 3)
            skips.append(c)
    yield from res("middle_block.0", c, c)
    yield from attention("middle_block.1", c)
    yield from res("middle_block.2", c, c)
    index = -1
    for level in reversed(range(len(a.widths))):
        for block in range(a.blocks + 1):
            index += 1
            width = a.widths[level]
            yield from res(f"output_blocks.{index}.0", c + skips.pop(), width)
            c = width
            if level in a.attention:
                yield from attention(f"output_blocks.{index}.1", c)
            if level and block == a.blocks:
                name = f"output_blocks.{index}.{2 if level in a.attention else 1}"
                yield from res(name, c, c) if a.updown else layer(f"{name}.conv", c, c, 3, 3)
    yield from layer("out.0", c)
    yield from layer("out.2", a.out_channels, c, 3, 3)


def forward(w: State, x: Tensor, time: float, a: Architecture, label: int | None = None) -> Tensor:
    """The output at one time, for one label."""
    half = a.channels // 2
    angle = a.time_scale * time * torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = _linear(w, "time_embed.0", torch.cat([angle.cos(), angle.sin()])[None].to(x.dtype))
    emb = _linear(w, "time_embed.2", F.silu(emb))
    if label is not None:
        emb = emb + w["label_emb.weight"][label]

    def res(name: str, x: Tensor, change: str = "") -> Tensor:
        h = F.silu(_norm(w, f"{name}.in_layers.0", x))
        h = _conv(w, f"{name}.in_layers.2", _changed(h, change))
        affine = _linear(w, f"{name}.emb_layers.1", F.silu(emb))[..., None, None]
        if a.scale_shift:
            scale, shift = affine.tensor_split(2, dim=1)
            h = _norm(w, f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = _norm(w, f"{name}.out_layers.0", h + affine)
        h = _conv(w, f"{name}.out_layers.3", F.silu(h))
        skip, x = f"{name}.skip_connection", _changed(x, change)
        return h + (F.conv2d(x, w[f"{skip}.weight"], w[f"{skip}.bias"]) if f"{skip}.weight" in w else x)

    def attention(name: str, x: Tensor) -> Tensor:
        b, c, n = len(x), x.shape[1], x[0, 0].numel()
        heads = a.heads or c // a.head_channels
        qkv = F.conv1d(_norm(w, f"{name}.norm", x).reshape(b, c, n), w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
        if a.new_order:
            q, k, v = (part.reshape(b * heads, c // heads, n) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * heads, 3 * c // heads, n).split(c // heads, dim=1)
        weights = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(c / heads)).softmax(-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, n)
        return x + F.conv1d(h, w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"]).reshape(x.shape)

    h = _conv(w, "input_blocks.0.0", x)
    skips, index, last = [h], 0, len(a.mult) - 1
    for level in range(last + 1):
        for _ in range(a.blocks):
            index += 1
            h = res(f"input_blocks.{index}.0", h)
            h = attention(f"input_blocks.{index}.1", h) if level in a.attention else h
            skips.append(h)
        if level < last:
            index += 1
            name = f"input_blocks.{index}.0"
            h = res(name, h, "down") if a.updown else _conv(w, f"{name}.op", h, stride=2)
            skips.append(h)
    h = res("middle_block.2", attention("middle_block.1", res("middle_block.0", h)))
    for index in range((last + 1) * (a.blocks + 1)):
        level = last - index // (a.blocks + 1)
        h = res(f"output_blocks.{index}.0", torch.cat([h, skips.pop()], dim=1))
        h = attention(f"output_blocks.{index}.1", h) if level in a.attention else h
        if level and index % (a.blocks + 1) == a.blocks:
            name = f"output_blocks.{index}.{1 + (level in a.attention)}"
            h = res(name, h, "up") if a.updown else _conv(w, f"{name}.conv", _changed(h, "up"))
    return _conv(w, "out.2", F.silu(_norm(w, "out.0", h)))


def _changed(x: Tensor, change: str) -> Tensor:
    if change == "up":
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if change == "down":
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x


def _norm(w: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _conv(w: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding=1)


def _linear(w: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

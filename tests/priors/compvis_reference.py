"""CompVis latent diffusion as plain functions of a state dictionary: names, shapes and arithmetic, no diffusers.

Written from the facts of the architecture (UNetModel and VQModelInterface of CompVis/latent-diffusion), to check the
conversion against. A trace collects the output of every convolution in and out, residual block, attention and
resampling, in the order of execution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
HEAD = 32


class Architecture(NamedTuple):
    """The defaults are LDM-VQ-4."""

    model_channels: int = 224
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    attention: tuple[bool, ...] = (False, True, True, True)
    blocks: int = 2
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    codes: int = 8192
    latent: int = 3


SMALL = Architecture(model_channels=32, ch=32, codes=64)


def random_state(a: Architecture, seed: int = 0, ema: bool = False) -> State:
    """A checkpoint's state dictionary with random weights; norms and biases are not trivial either."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if "embedding" in name:
            return noise
        if len(shape) == 1:
            return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        return noise / math.sqrt(math.prod(shape[1:]))

    shapes = {f"model.diffusion_model.{n}": s for n, s in _unet_shapes(a)}
    shapes |= {f"first_stage_model.{n}": s for n, s in _vq_shapes(a)}
    state = {name: draw(name, shape) for name, shape in shapes.items()}
    if ema:
        for name in [n for n in state if n.startswith("model.diffusion_model.")]:
            key = name.removeprefix("model.").replace(".", "")
            state[f"model_ema.{key}"] = draw(name, shapes[name])
        state["model_ema.decay"] = torch.tensor(0.9999)
        state["model_ema.num_updates"] = torch.tensor(7)
    state["betas"] = (torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).float()
    return state


def unet(state: State, x: Tensor, time: int, a: Architecture, trace: list[Tensor], prefix: str) -> Tensor:
    """eps of the UNet at an integer time; ``prefix`` names the weights."""
    w = {n.removeprefix(prefix): v.to(x.dtype) for n, v in state.items() if n.startswith(prefix)}
    half = a.model_channels // 2
    # in float32, as CompVis does whatever the weights are
    angle = time * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    emb = torch.cat([angle.cos(), angle.sin()])[None].to(x.dtype)
    emb = F.linear(emb, w["time_embed.0.weight"], w["time_embed.0.bias"])
    emb = F.linear(F.silu(emb), w["time_embed.2.weight"], w["time_embed.2.bias"])

    def keep(h: Tensor) -> Tensor:
        trace.append(h)
        return h

    def res(name: str, x: Tensor) -> Tensor:
        h = _conv(w, f"{name}.in_layers.2", F.silu(_norm(w, f"{name}.in_layers.0", x, 1e-5)))
        shift = F.linear(F.silu(emb), w[f"{name}.emb_layers.1.weight"], w[f"{name}.emb_layers.1.bias"])
        h = _norm(w, f"{name}.out_layers.0", h + shift[..., None, None], 1e-5)
        h = _conv(w, f"{name}.out_layers.3", F.silu(h))
        skip = f"{name}.skip_connection"
        return keep(h + (_conv(w, skip, x, padding=0) if f"{skip}.weight" in w else x))

    def attention(name: str, x: Tensor) -> Tensor:
        b, c, n = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
        h = _norm(w, f"{name}.norm", x, 1e-5).reshape(b, c, n)
        qkv = F.conv1d(h, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
        q, k, v = qkv.reshape(b * (c // HEAD), 3 * HEAD, n).split(HEAD, dim=1)
        weights = (q.mT @ k / math.sqrt(HEAD)).softmax(-1)
        h = (v @ weights.mT).reshape(b, c, n)
        h = F.conv1d(h, w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"])
        return keep(x + h.reshape(x.shape))

    h = keep(_conv(w, "input_blocks.0.0", x))
    skips, index, last = [h], 0, len(a.channel_mult) - 1
    for level in range(last + 1):
        for _ in range(a.blocks):
            index += 1
            h = res(f"input_blocks.{index}.0", h)
            if a.attention[level]:
                h = attention(f"input_blocks.{index}.1", h)
            skips.append(h)
        if level < last:
            index += 1
            h = keep(_conv(w, f"input_blocks.{index}.0.op", h, stride=2))
            skips.append(h)
    h = res("middle_block.2", attention("middle_block.1", res("middle_block.0", h)))
    index = 0
    for level in reversed(range(last + 1)):
        for block in range(a.blocks + 1):
            h = res(f"output_blocks.{index}.0", torch.cat([h, skips.pop()], dim=1))
            if a.attention[level]:
                h = attention(f"output_blocks.{index}.1", h)
            if level and block == a.blocks:
                name = f"output_blocks.{index}.{1 + a.attention[level]}.conv"
                h = keep(_conv(w, name, h.repeat_interleave(2, 2).repeat_interleave(2, 3)))
            index += 1
    return keep(_conv(w, "out.2", F.silu(_norm(w, "out.0", h, 1e-5))))


def encode(state: State, x: Tensor, a: Architecture, trace: list[Tensor]) -> Tensor:
    """The latent before quantisation."""
    w = _first_stage(state, x.dtype)
    h = _keep(trace, _conv(w, "encoder.conv_in", x))
    for level in range(len(a.ch_mult)):
        for block in range(a.blocks):
            h = _vq_res(w, f"encoder.down.{level}.block.{block}", h, trace)
        if level < len(a.ch_mult) - 1:
            h = _keep(trace, _conv(w, f"encoder.down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), 2, 0))
    h = _middle(w, "encoder", h, trace)
    h = _keep(trace, _conv(w, "encoder.conv_out", F.silu(_norm(w, "encoder.norm_out", h, 1e-6))))
    return _conv(w, "quant_conv", h, padding=0)


def decode(state: State, z: Tensor, a: Architecture, trace: list[Tensor]) -> Tensor:
    """The image of the nearest codes."""
    w = _first_stage(state, z.dtype)
    codebook = w["quantize.embedding.weight"]
    distance = (z[:, None] - codebook[None, :, :, None, None]).square().sum(2)
    h = codebook[distance.argmin(1)].permute(0, 3, 1, 2)
    h = _keep(trace, _conv(w, "decoder.conv_in", _conv(w, "post_quant_conv", h, padding=0)))
    h = _middle(w, "decoder", h, trace)
    for level in reversed(range(len(a.ch_mult))):
        for block in range(a.blocks + 1):
            h = _vq_res(w, f"decoder.up.{level}.block.{block}", h, trace)
        if level:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = _keep(trace, _conv(w, f"decoder.up.{level}.upsample.conv", h))
    return _keep(trace, _conv(w, "decoder.conv_out", F.silu(_norm(w, "decoder.norm_out", h, 1e-6))))


def _middle(w: State, side: str, h: Tensor, trace: list[Tensor]) -> Tensor:
    h = _vq_res(w, f"{side}.mid.block_1", h, trace)
    name = f"{side}.mid.attn_1"
    normed = _norm(w, f"{name}.norm", h, 1e-6)
    q, k, v = (_conv(w, f"{name}.{part}", normed, padding=0).flatten(2) for part in "qkv")
    weights = (q.mT @ k / math.sqrt(h.shape[1])).softmax(-1)
    h = _keep(trace, h + _conv(w, f"{name}.proj_out", (v @ weights.mT).reshape(h.shape), padding=0))
    return _vq_res(w, f"{side}.mid.block_2", h, trace)


def _vq_res(w: State, name: str, x: Tensor, trace: list[Tensor]) -> Tensor:
    h = _conv(w, f"{name}.conv1", F.silu(_norm(w, f"{name}.norm1", x, 1e-6)))
    h = _conv(w, f"{name}.conv2", F.silu(_norm(w, f"{name}.norm2", h, 1e-6)))
    skip = f"{name}.nin_shortcut"
    return _keep(trace, h + (_conv(w, skip, x, padding=0) if f"{skip}.weight" in w else x))


def _keep(trace: list[Tensor], h: Tensor) -> Tensor:
    trace.append(h)
    return h


def _first_stage(state: State, dtype: torch.dtype) -> State:
    prefix = "first_stage_model."
    return {n.removeprefix(prefix): v.to(dtype) for n, v in state.items() if n.startswith(prefix)}


def _conv(w: State, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=padding)


def _norm(w: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps)


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _layer(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _unet_shapes(a: Architecture) -> Shapes:
    m, emb = a.model_channels, 4 * a.model_channels

    def res(name: str, before: int, after: int) -> Shapes:
        yield from _layer(f"{name}.in_layers.0", before)
        yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
        yield from _layer(f"{name}.emb_layers.1", after, emb)
        yield from _layer(f"{name}.out_layers.0", after)
        yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            yield from _layer(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name: str, c: int) -> Shapes:
        yield from _layer(f"{name}.norm", c)
        yield from _layer(f"{name}.qkv", 3 * c, c, 1)
        yield from _layer(f"{name}.proj_out", c, c, 1)

    yield from _layer("time_embed.0", emb, m)
    yield from _layer("time_embed.2", emb, emb)
    yield from _layer("input_blocks.0.0", m, a.latent, 3, 3)
    skips, c, index = [m], m, 0
    for level, mult in enumerate(a.channel_mult):
        for _ in range(a.blocks):
            index += 1
            yield from res(f"input_blocks.{index}.0", c, m * mult)
            c = m * mult
            if a.attention[level]:
                yield from attention(f"input_blocks.{index}.1", c)
            skips.append(c)
        if level < len(a.channel_mult) - 1:
            index += 1
            yield from _layer(f"input_blocks.{index}.0.op", c, c, 3, 3)
            skips.append(c)
    yield from res("middle_block.0", c, c)
    yield from attention("middle_block.1", c)
    yield from res("middle_block.2", c, c)
    index = 0
    for level, mult in reversed(list(enumerate(a.channel_mult))):
        for block in range(a.blocks + 1):
            yield from res(f"output_blocks.{index}.0", c + skips.pop(), m * mult)
            c = m * mult
            if a.attention[level]:
                yield from attention(f"output_blocks.{index}.1", c)
            if level and block == a.blocks:
                yield from _layer(f"output_blocks.{index}.{1 + a.attention[level]}.conv", c, c, 3, 3)
            index += 1
    yield from _layer("out.0", m)
    yield from _layer("out.2", a.latent, m, 3, 3)


def _vq_shapes(a: Architecture) -> Shapes:
    def res(name: str, before: int, after: int) -> Shapes:
        yield from _layer(f"{name}.norm1", before)
        yield from _layer(f"{name}.conv1", after, before, 3, 3)
        yield from _layer(f"{name}.norm2", after)
        yield from _layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            yield from _layer(f"{name}.nin_shortcut", after, before, 1, 1)

    def middle(side: str, c: int) -> Shapes:
        yield from res(f"{side}.mid.block_1", c, c)
        yield from _layer(f"{side}.mid.attn_1.norm", c)
        for part in ("q", "k", "v", "proj_out"):
            yield from _layer(f"{side}.mid.attn_1.{part}", c, c, 1, 1)
        yield from res(f"{side}.mid.block_2", c, c)

    c = a.ch
    yield from _layer("encoder.conv_in", c, 3, 3, 3)
    for level, mult in enumerate(a.ch_mult):
        for block in range(a.blocks):
            yield from res(f"encoder.down.{level}.block.{block}", c, a.ch * mult)
            c = a.ch * mult
        if level < len(a.ch_mult) - 1:
            yield from _layer(f"encoder.down.{level}.downsample.conv", c, c, 3, 3)
    yield from middle("encoder", c)
    yield from _layer("encoder.norm_out", c)
    yield from _layer("encoder.conv_out", a.latent, c, 3, 3)
    yield from _layer("quant_conv", a.latent, a.latent, 1, 1)
    yield "quantize.embedding.weight", (a.codes, a.latent)
    yield from _layer("post_quant_conv", a.latent, a.latent, 1, 1)
    yield from _layer("decoder.conv_in", c, a.latent, 3, 3)
    yield from middle("decoder", c)
    for level, mult in reversed(list(enumerate(a.ch_mult))):
        for block in range(a.blocks + 1):
            yield from res(f"decoder.up.{level}.block.{block}", c, a.ch * mult)
            c = a.ch * mult
        if level:
            yield from _layer(f"decoder.up.{level}.upsample.conv", c, c, 3, 3)
    yield from _layer("decoder.norm_out", c)
    yield from _layer("decoder.conv_out", 3, c, 3, 3)

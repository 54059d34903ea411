"""EDM's and EDM2's networks as plain functions of a state dictionary: names, shapes and arithmetic, no modules.

Written from the architectures (Karras et al. 2022, arXiv 2206.00364; 2024, arXiv 2312.02696; SongUNet, DhariwalUNet and
networks_edm2 of NVlabs), to check the conversion against. Shapes are found by running the network once: a tensor is
drawn when it is first asked for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Architecture(NamedTuple):
    """The defaults are DDPM++ as EDM trains it on FFHQ 64 x 64."""

    size: int = 64
    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)  # resolutions
    adm: bool = False
    fourier: bool = False
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[int, ...] = (1, 1)
    noise_mult: int = 1
    classes: int = 0
    augment: int = 9


FFHQ = Architecture()
NCSNPP = {"fourier": True, "encoder": "residual", "taps": (1, 3, 3, 1), "noise_mult": 2}
SMALL = Architecture(size=16, channels=32, mult=(1, 2), blocks=1, attention=(8,))


class Weights:
    """A state dictionary that is drawn as it is read, or read as it is."""

    def __init__(self, state: State | None = None, seed: int = 0) -> None:
        self.state: State = {} if state is None else state
        self.drawing = state is None
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int, scale: float | None = None) -> Tensor:
        if self.drawing:
            noise = torch.randn(shape, generator=self.generator)
            if scale is not None:
                self.state[name] = scale * noise
            elif len(shape) == 1:
                self.state[name] = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                self.state[name] = noise / math.sqrt(math.prod(shape[1:]))
        assert self.state[name].shape == shape, name
        return self.state[name]

    def linear(self, name: str, x: Tensor, out: int, bias: bool = True) -> Tensor:
        weight = self(f"{name}.weight", out, x.shape[1])
        return x @ weight.T + (self(f"{name}.bias", out) if bias else 0)

    def conv(self, name: str, x: Tensor, out: int, kernel: int = 3, padding: int | None = None) -> Tensor:
        weight, bias = self(f"{name}.weight", out, x.shape[1], kernel, kernel), self(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, padding=kernel // 2 if padding is None else padding)

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        c = x.shape[1]
        return F.group_norm(x, min(32, c // 4), self(f"{name}.weight", c), self(f"{name}.bias", c), eps)

    def filter(self, name: str, taps: tuple[int, ...]) -> Tensor:
        f = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        if self.drawing:
            self.state[f"{name}.resample_filter"] = torch.outer(f, f)[None, None]
        return f


def resampled(x: Tensor, f: Tensor, change: str, pad: int | None = None) -> Tensor:
    """Rows and columns one after the other, by plain sums: out of the image is zero."""
    k = len(f)
    pad = (k - 1) // 2 if pad is None else pad
    for axis in (2, 3):
        n = x.shape[axis]
        if change == "down":
            size = (n + 2 * pad - k) // 2 + 1
            matrix = x.new_zeros(size, n)
            for row in range(size):
                for tap in range(k):
                    if 0 <= (at := 2 * row - pad + tap) < n:
                        matrix[row, at] += f[tap]
        else:
            matrix = x.new_zeros(2 * n, n)
            for at in range(n):
                for tap in range(k):
                    if 0 <= (row := 2 * at - pad + tap) < 2 * n:
                        matrix[row, at] += 2 * f[tap]
        x = torch.movedim(torch.tensordot(matrix, x, dims=([1], [axis])), 0, axis)
    return x


def block(
    w: Weights, name: str, x: Tensor, emb: Tensor, out: int, a: Architecture, attends: bool, change: str = ""
) -> Tensor:
    eps, scale = (1e-5, 1.0) if a.adm else (1e-6, math.sqrt(0.5))
    f = w.filter(f"{name}.conv0", a.taps) if change else None
    h = F.silu(w.norm(f"{name}.norm0", x, eps))
    h = w.conv(f"{name}.conv0", h if f is None else resampled(h, f, change), out)
    affine = w.linear(f"{name}.affine", emb, out * (1 + a.adm))[..., None, None]
    if a.adm:
        h = w.norm(f"{name}.norm1", h, eps) * (1 + affine[:, :out]) + affine[:, out:]
    else:
        h = w.norm(f"{name}.norm1", h + affine, eps)
    h = w.conv(f"{name}.conv1", F.silu(h), out)
    if change:
        x = resampled(x, w.filter(f"{name}.skip", a.taps), change)
    if x.shape[1] != out or (change and not a.adm):
        x = w.conv(f"{name}.skip", x, out, 1)
    x = (x + h) * scale
    if attends:
        heads = out // 64 if a.adm and out >= 64 else 1
        qkv = w.conv(f"{name}.qkv", w.norm(f"{name}.norm2", x, eps), 3 * out, 1)
        q, k, v = (part.reshape(len(x), heads, out // heads, -1) for part in (qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]))
        weights = torch.einsum("bhct,bhcs->bhts", q, k).div(math.sqrt(out / heads)).softmax(-1)
        h = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(x.shape)
        x = (x + w.conv(f"{name}.proj", h, out, 1)) * scale
    return x


def network(w: Weights, x: Tensor, noise: Tensor, a: Architecture, label: int | None = None) -> Tensor:
    """F(x, noise): SongUNet, or DhariwalUNet if ``a.adm``."""
    width, emb_width = a.channels * a.noise_mult, 4 * a.channels
    if a.fourier:
        angles = noise[:, None] * (2 * math.pi * w("map_noise.freqs", width // 2, scale=16.0))
    else:
        last = width // 2 - (0 if a.adm else 1)
        angles = noise[:, None] * 10000.0 ** -(torch.arange(width // 2, dtype=noise.dtype) / last)
    emb = torch.cat([angles.cos(), angles.sin()] if a.adm else [angles.sin(), angles.cos()], dim=1)
    one_hot = None
    if a.classes:
        one_hot = torch.zeros(len(x), a.classes, dtype=x.dtype)
        one_hot[:, label] = 1
    if one_hot is not None and not a.adm:
        emb = emb + w.linear("map_label", one_hot * math.sqrt(a.classes), width)
    if a.augment:
        w("map_augment.weight", width, a.augment)  # of zeros
    emb = w.linear("map_layer1", F.silu(w.linear("map_layer0", emb, emb_width)), emb_width)
    if one_hot is not None and a.adm:
        emb = emb + w.linear("map_label", one_hot, emb_width, bias=False)
    emb = F.silu(emb)

    aux = x
    h = w.conv(f"enc.{a.size}x{a.size}_conv", x, a.channels)
    skips = [h]
    for level, mult in enumerate(a.mult):
        side = a.size >> level
        if level:
            name = f"enc.{side}x{side}"
            h = block(w, f"{name}_down", h, emb, h.shape[1], a, False, "down")
            if a.encoder == "skip":
                aux = resampled(aux, w.filter(f"{name}_aux_down", a.taps), "down")
                h = h + w.conv(f"{name}_aux_skip", aux, h.shape[1], 1)
            elif a.encoder == "residual":
                f = w.filter(f"{name}_aux_residual", a.taps)
                # over the edge of the image, filter and convolution see zeros
                wide = w.conv(f"{name}_aux_residual", aux, h.shape[1], padding=1 + (len(f) - 1) // 2)
                h = aux = (h + resampled(wide, f, "down", 0)) / math.sqrt(2)
            skips.append(h)
        for index in range(a.blocks):
            h = block(w, f"enc.{side}x{side}_block{index}", h, emb, mult * a.channels, a, side in a.attention)
            skips.append(h)
    out: Tensor | None = None
    for level in reversed(range(len(a.mult))):
        side = a.size >> level
        name = f"dec.{side}x{side}"
        if level == len(a.mult) - 1:
            h = block(w, f"{name}_in0", h, emb, h.shape[1], a, True)
            h = block(w, f"{name}_in1", h, emb, h.shape[1], a, False)
        else:
            h = block(w, f"{name}_up", h, emb, h.shape[1], a, False, "up")
        for index in range(a.blocks + 1):
            attends = side in a.attention and (a.adm or index == a.blocks)
            h = block(
                w, f"{name}_block{index}", torch.cat([h, skips.pop()], 1), emb, a.mult[level] * a.channels, a, attends
            )
        if not a.adm and (a.decoder == "skip" or level == 0):
            if out is not None:
                out = resampled(out, w.filter(f"{name}_aux_up", a.taps), "up")
            rgb = w.conv(f"{name}_aux_conv", F.silu(w.norm(f"{name}_aux_norm", h, 1e-6)), 3)
            out = rgb if out is None else out + rgb
    return w.conv("out_conv", F.silu(w.norm("out_norm", h, 1e-5)), 3) if out is None else out


def denoise(
    w: Weights, x: Tensor, sigma: float, a: Architecture, label: int | None = None, precond: str = "edm"
) -> Tensor:
    """D(x; sigma) of table 1."""
    ones, s2, data = torch.ones(len(x), dtype=x.dtype), sigma**2, 0.5
    if precond == "edm":
        c_skip, c_out = data**2 / (s2 + data**2), sigma * data / math.sqrt(s2 + data**2)
        return c_skip * x + c_out * network(w, x / math.sqrt(s2 + data**2), ones * math.log(sigma) / 4, a, label)
    if precond == "ve":
        return x + sigma * network(w, x, ones * math.log(0.5 * sigma), a, label)
    beta_d, beta_min = 19.9, 0.1
    t = (math.sqrt(beta_min**2 + 2 * beta_d * math.log(1 + s2)) - beta_min) / beta_d
    return x - sigma * network(w, x / math.sqrt(1 + s2), ones * 999 * t, a, label)


def random_state(a: Architecture, seed: int = 0) -> State:
    """The state of a network with random weights."""
    w = Weights(seed=seed)
    with torch.no_grad():
        network(w, torch.zeros(1, 3, a.size, a.size), torch.zeros(1), a, 0)
    return w.state

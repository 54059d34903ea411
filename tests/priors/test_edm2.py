"""A converted EDM2 checkpoint computes what its network computes, whose weights are normalised as they are used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipsolve.priors import load_prior
from ipsolve.priors.networks.diffusers_folder import without_weights
from ipsolve.priors.networks.edm_checkpoint import read_edm2
from ipsolve.requests.errors import RequestError
from ray_jobs.convert import main
from tests.priors.edm_reference import Weights
from tests.priors.test_adm import assert_same

State = dict[str, Tensor]


class Architecture(NamedTuple):
    """The defaults have the widths of edm2-img64-s at its finest resolutions."""

    size: int = 16
    channels: int = 192
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (8,)
    classes: int = 1000


SMALL = Architecture(channels=16, mult=(1, 2), blocks=1, attention=(8,), classes=0)


def normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    count = math.prod(x.shape[d] for d in dims)
    return x / (1e-4 + x.square().sum(dims, keepdim=True).sqrt() / math.sqrt(count))


def convolved(w: Weights, name: str, x: Tensor, out: int, kernel: int = 0, gain: Tensor | float = 1.0) -> Tensor:
    """Weights of unit rows over the root of what is summed, times a gain (eq. 47, 66)."""
    shape = (out, x.shape[1], kernel, kernel) if kernel else (out, x.shape[1])
    weight = w(f"{name}.weight", *shape)
    weight = normalised(weight, tuple(range(1, weight.ndim))) * gain / math.sqrt(weight[0].numel())
    return F.conv2d(x, weight, padding=kernel // 2) if kernel else x @ weight.T


def summed(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (a + t * (b - a)) / math.sqrt((1 - t) ** 2 + t**2)


def block(w: Weights, name: str, x: Tensor, emb: Tensor, out: int, change: str = "", attends: bool = False) -> Tensor:
    encoder = name.startswith("enc")
    if change == "down":
        x = F.avg_pool2d(x, 2)
    elif change == "up":
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    mixes = x.shape[1] != out
    if encoder:
        x = normalised(convolved(w, f"{name}.conv_skip", x, out, 1) if mixes else x, (1,))
    y = convolved(w, f"{name}.conv_res0", F.silu(x) / 0.596, out, 3)
    c = convolved(w, f"{name}.emb_linear", emb, out, gain=w(f"{name}.emb_gain", scale=1.0)) + 1
    y = convolved(w, f"{name}.conv_res1", F.silu(y * c[..., None, None]) / 0.596, out, 3)
    if mixes and not encoder:
        x = convolved(w, f"{name}.conv_skip", x, out, 1)
    x = summed(x, y, 0.3)
    if attends:
        heads = max(out // 64, 1)
        y = convolved(w, f"{name}.attn_qkv", x, 3 * out, 1).reshape(len(x), heads, out // heads, 3, -1)
        q, k, v = normalised(y, (2,)).unbind(3)
        weights = torch.einsum("nhcq,nhck->nhqk", q, k).div(math.sqrt(out / heads)).softmax(3)
        y = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape)
        x = summed(x, convolved(w, f"{name}.attn_proj", y, out, 1), 0.3)
    return x.clip(-256, 256)


def denoise(w: Weights, x: Tensor, sigma: float, a: Architecture, label: int = 0) -> Tensor:
    """D(x; sigma)."""
    widths = [a.channels * m for m in a.mult]
    noise = torch.full((len(x),), math.log(sigma) / 4, dtype=x.dtype)
    freqs, phases = (w(f"emb_fourier.{name}", widths[0], scale=6.0) for name in ("freqs", "phases"))
    emb = convolved(w, "emb_noise", math.sqrt(2) * torch.cos(torch.outer(noise, freqs) + phases), max(widths))
    if a.classes:
        one_hot = F.one_hot(torch.full((len(x),), label), a.classes).to(x.dtype)
        emb = summed(emb, convolved(w, "emb_label", one_hot * math.sqrt(a.classes), max(widths)), 0.5)
    emb = F.silu(emb) / 0.596
    scale = math.sqrt(sigma**2 + 0.25)
    h = convolved(w, f"enc.{a.size}x{a.size}_conv", torch.cat([x / scale, torch.ones_like(x[:, :1])], 1), widths[0], 3)
    skips = [h]
    for level, width in enumerate(widths):
        side = a.size >> level
        if level:
            h = block(w, f"enc.{side}x{side}_down", h, emb, h.shape[1], "down")
            skips.append(h)
        for index in range(a.blocks):
            h = block(w, f"enc.{side}x{side}_block{index}", h, emb, width, attends=side in a.attention)
            skips.append(h)
    for level in reversed(range(len(widths))):
        name = f"dec.{a.size >> level}x{a.size >> level}"
        if level == len(widths) - 1:
            h = block(w, f"{name}_in0", h, emb, h.shape[1], attends=True)
            h = block(w, f"{name}_in1", h, emb, h.shape[1])
        else:
            h = block(w, f"{name}_up", h, emb, h.shape[1], "up")
        for index in range(a.blocks + 1):
            skip = skips.pop()
            both = math.sqrt((h.shape[1] + skip.shape[1]) / 0.5)
            h = torch.cat([0.5 * both / math.sqrt(h.shape[1]) * h, 0.5 * both / math.sqrt(skip.shape[1]) * skip], 1)
            h = block(w, f"{name}_block{index}", h, emb, widths[level], attends=(a.size >> level) in a.attention)
    out = convolved(w, "out_conv", h, 3, 3, gain=w("out_gain", scale=1.0))
    return 0.25 / scale**2 * x + 0.5 * sigma / scale * out


def random_state(a: Architecture) -> State:
    w = Weights()
    with torch.no_grad():
        denoise(w, torch.zeros(1, 3, a.size, a.size), 1.0, a)
    return w.state


def save(state: State, path: Path) -> None:
    """As ``Precond`` saves it: the network called unet, and what estimates the uncertainty of the loss beside it."""
    whole = {f"unet.{name}": tensor for name, tensor in state.items()}
    loss = {"logvar_fourier.freqs": 128, "logvar_fourier.phases": 128, "logvar_linear.weight": (1, 128)}
    torch.save({**whole, **{name: torch.ones(shape) for name, shape in loss.items()}}, path)


@torch.no_grad()
def test_the_widths_of_img64_s(tmp_path: Path) -> None:
    a = Architecture()
    state = random_state(a)
    save(state, tmp_path / "edm2.pt")
    assert main([str(tmp_path / "edm2.pt"), str(tmp_path / "prior")]) == 0
    prior = load_prior({"prior": "pixel", "path": str(tmp_path / "prior"), "label": 207})
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert_same(prior.denoise(x, prior.schedule.level(0.7)), denoise(Weights(state), x, 0.7, a, 207), 1e-5)


def test_img64_s_has_the_published_size() -> None:
    config = {"sample_size": 64, "widths": [192, 384, 576, 768], "attention": [False, False, True, True]}
    config |= {"num_blocks": 3, "noise_channels": 192, "emb_channels": 768, "num_class_embeds": 1000}
    unet = without_weights({"_class_name": "Edm2UNet", **config}, "here")
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == 280  # table 2 of the paper


@pytest.mark.parametrize(
    "a", [SMALL, SMALL._replace(classes=5), SMALL._replace(channels=64, mult=(2, 3, 1), attention=(16, 4), blocks=2)]
)
@torch.no_grad()
def test_small_networks_in_float64(a: Architecture) -> None:
    state = random_state(a)
    unet = nn.Module.to(read_edm2(state).unet, torch.float64)
    w = Weights({name: tensor.double() for name, tensor in state.items()})
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    labels = torch.tensor([4, 4]) if a.classes else None
    for sigma in (0.02, 40.0):
        found = unet(x, torch.full((2,), sigma, dtype=torch.float64), labels)[0]
        assert_same(found, denoise(w, x, sigma, a, 4), 1e-5)  # folded weights are stored in float32


def test_bfloat16(tmp_path: Path) -> None:
    save(random_state(SMALL), tmp_path / "edm2.pt")
    assert main([str(tmp_path / "edm2.pt"), str(tmp_path / "prior")]) == 0
    exact, half = (
        load_prior({"prior": "pixel", "path": str(tmp_path / "prior")}, precision=p) for p in ("float32", "bfloat16")
    )
    x, t = torch.randn(2, 3, 16, 16), exact.schedule.level(2.0)
    assert half.denoise(x, t).dtype == torch.float32
    assert 0 < (half.denoise(x, t) - exact.denoise(x, t)).square().mean().sqrt() < 0.05


@pytest.mark.parametrize(
    ("drop", "put", "flags", "message"),
    [
        ("out_gain", {}, {}, "lacks out_gain"),
        ("emb_noise.weight", {}, {}, "lacks emb_noise.weight"),
        ("", {"spare": torch.zeros(1)}, {}, "holds unexpected 1 weights, the first being spare"),
        ("", {"out_conv.weight": torch.zeros(4, 16, 3, 3)}, {}, r"an EDM2 network of latents \(edm2-img512\)"),
        ("", {}, {"precond": "ve"}, "FLAGS.precond: is ve, but EDM2 networks have edm"),
    ],
)
def test_what_does_not_fit_is_one_line(drop: str, put: State, flags: dict[str, Any], message: str) -> None:
    state = {name: tensor for name, tensor in random_state(SMALL).items() if name != drop} | put
    with pytest.raises(RequestError, match=message) as caught:
        read_edm2(state, flags)
    assert "\n" not in str(caught.value)

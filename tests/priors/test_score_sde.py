"""A converted score_sde checkpoint computes what NCSN++ and DDPM++ compute, module by numbered module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipsolve.priors import load_prior
from ipsolve.priors.networks.score_sde import read_score_sde
from ipsolve.requests.errors import RequestError
from ray_jobs.convert import main
from tests.priors.edm_reference import Weights
from tests.priors.test_adm import assert_same

State = dict[str, Tensor]


class Architecture(NamedTuple):
    """The defaults are NCSN++ on CIFAR-10 (configs/ve/cifar10_ncsnpp_continuous)."""

    size: int = 32
    nf: int = 128
    mult: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    fourier: bool = True
    fir: bool = True
    progressive: bool = False
    progressive_input: str = "residual"


SMALL = Architecture(size=16, nf=16, mult=(1, 2, 1), blocks=2, attention=(8,))
DDPMPP = SMALL._replace(fourier=False, fir=False, progressive_input="none")
HIGH = SMALL._replace(progressive=True, progressive_input="input_skip", blocks=1)  # that of the 256 x 256 networks


def upfirdn(x: Tensor, up: int, down: int, before: int, after: int, gain: float) -> Tensor:
    """Insert zeros, pad, filter with [1, 3, 3, 1], keep every ``down``-th pixel."""
    b, c, h, w = x.shape
    wide = x.new_zeros(b, c, h, up, w, up)
    wide[:, :, :, 0, :, 0] = x
    padded = F.pad(wide.reshape(b * c, 1, h * up, w * up), (before, after, before, after))
    k = torch.tensor([1.0, 3, 3, 1], dtype=x.dtype) / 8 * math.sqrt(gain)
    out = F.conv2d(padded, torch.outer(k, k)[None, None])[..., ::down, ::down]
    return out.reshape(b, c, *out.shape[2:])


def smaller(x: Tensor, fir: bool) -> Tensor:
    return upfirdn(x, 1, 2, 1, 1, 1.0) if fir else F.avg_pool2d(x, 2)


def larger(x: Tensor, fir: bool) -> Tensor:
    return upfirdn(x, 2, 1, 2, 1, 4.0) if fir else x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Network:
    """The forward pass, which counts its modules; those without weights count, too."""

    def __init__(self, w: Weights, a: Architecture) -> None:
        self.w, self.a, self.count = w, a, -1

    def next(self) -> str:
        self.count += 1
        return f"all_modules.{self.count}"

    def nin(self, name: str, x: Tensor) -> Tensor:
        c = x.shape[1]
        return torch.einsum("bihw,io->bohw", x, self.w(f"{name}.W", c, c)) + self.w(f"{name}.b", c)[:, None, None]

    def residual(self, x: Tensor, out: int | None = None, change: str = "") -> Tensor:
        name, w = self.next(), self.w
        out = out or x.shape[1]
        h = F.silu(w.norm(f"{name}.GroupNorm_0", x, 1e-6))
        if change:
            h, x_in = (larger if change == "up" else smaller)(h, self.a.fir), x.shape[1]
            x = (larger if change == "up" else smaller)(x, self.a.fir)
            assert x.shape[1] == x_in
        h = w.conv(f"{name}.Conv_0", h, out)
        h = h + w.linear(f"{name}.Dense_0", F.silu(self.temb), out)[..., None, None]
        h = w.conv(f"{name}.Conv_1", F.silu(w.norm(f"{name}.GroupNorm_1", h, 1e-6)), out)
        if change or x.shape[1] != out:
            x = w.conv(f"{name}.Conv_2", x, out, 1)
        return (x + h) / math.sqrt(2)

    def attention(self, x: Tensor) -> Tensor:
        if x.shape[-1] not in self.a.attention and self.attending:
            return x
        name = self.next()
        h = self.w.norm(f"{name}.GroupNorm_0", x, 1e-6)
        q, k, v = (self.nin(f"{name}.NIN_{i}", h).flatten(2) for i in range(3))
        weights = (torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(x.shape[1])).softmax(-1)
        h = torch.einsum("bnm,bcm->bcn", weights, v).reshape(x.shape)
        return (x + self.nin(f"{name}.NIN_3", h)) / math.sqrt(2)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the output before it is divided by sigma, for x in [-1, 1]."""
        w, a, self.attending = self.w, self.a, True
        if a.fourier:
            angles = torch.outer(time.log(), w(f"{self.next()}.W", a.nf, scale=16.0)) * 2 * math.pi
        else:
            angles = torch.outer(
                time, torch.exp(-math.log(10000) / (a.nf // 2 - 1) * torch.arange(a.nf // 2)).to(x.dtype)
            )
        emb = w.linear(self.next(), torch.cat([angles.sin(), angles.cos()], 1), 4 * a.nf)
        self.temb = w.linear(self.next(), F.silu(emb), 4 * a.nf)
        pyramid, hs = x, [w.conv(self.next(), x, a.nf)]
        for level, mult in enumerate(a.mult):
            for _ in range(a.blocks):
                hs.append(self.attention(self.residual(hs[-1], mult * a.nf)))
            if level == len(a.mult) - 1:
                break
            h = self.residual(hs[-1], change="down")
            if a.progressive_input == "input_skip":
                self.next()
                pyramid = smaller(pyramid, a.fir)
                h = h + w.conv(f"{self.next()}.Conv_0", pyramid, h.shape[1], 1)
            elif a.progressive_input == "residual":
                name = f"{self.next()}.Conv2d_0"
                filtered = upfirdn(pyramid, 1, 1, 2, 2, 1.0)
                weight = w(f"{name}.weight", h.shape[1], pyramid.shape[1], 3, 3)
                pyramid = F.conv2d(filtered, weight, stride=2) + w(f"{name}.bias", h.shape[1])[:, None, None]
                h = pyramid = (pyramid + h) / math.sqrt(2)
            hs.append(h)
        h = self.residual(hs[-1])
        self.attending = False
        h = self.residual(self.attention(h))
        self.attending = True
        out = None
        for level in reversed(range(len(a.mult))):
            for _ in range(a.blocks + 1):
                h = self.residual(torch.cat([h, hs.pop()], 1), a.mult[level] * a.nf)
            h = self.attention(h)
            if a.progressive:
                if out is not None:
                    self.next()
                    out = larger(out, a.fir)
                part = F.silu(w.norm(self.next(), h, 1e-6))
                part = w.conv(self.next(), part, 3)
                out = part if out is None else out + part
            if level:
                h = self.residual(h, change="up")
        if out is None:
            norm = self.next()
            # norms and convolutions in a list of modules are told apart by their shapes alone
            out = w.conv(self.next(), F.silu(w.norm(norm, h, 1e-6)), 3)
        return out


def random_state(a: Architecture) -> State:
    w = Weights()
    with torch.no_grad():
        Network(w, a)(torch.zeros(1, 3, a.size, a.size), torch.ones(1))
    return w.state


def flags(a: Architecture) -> dict[str, Any]:
    return {"image_size": a.size, **({"sigma_min": 0.01, "sigma_max": 50.0} if a.fourier else {"sde": "vpsde"})}


def save(path: Path, state: State, shadow: list[Tensor] | None = None) -> Path:
    """As ``save_checkpoint`` of score_sde writes it, from within DataParallel."""
    model = {f"module.{name}": tensor for name, tensor in state.items()}
    model["module.sigmas"] = torch.logspace(math.log10(50), -2, 1000)
    ema = {
        "decay": 0.999,
        "num_updates": 3,
        "shadow_params": shadow or [w for n, w in state.items() if n != "all_modules.0.W"],
    }
    torch.save({"optimizer": {"state": {}}, "model": model, "ema": ema, "step": 950000}, path)
    return path


@torch.no_grad()
def test_ncsnpp_of_cifar10_at_its_full_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = Architecture(blocks=1)  # of 4, or 8 in the deep one
    state = random_state(a)
    source = save(tmp_path / "checkpoint.pth", state)
    assert main([str(source), str(tmp_path / "prior")]) == 0
    assert "as a score_sde network (NCSN++, geometric_ve)" in capsys.readouterr().out
    prior = load_prior({"prior": "pixel", "path": str(tmp_path / "prior")})
    assert prior.schedule.levels(5)[0].sigma == pytest.approx(100)  # 50 for images in [0, 1]
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    sigma = 0.9
    unit = torch.full((1,), sigma / 2)
    score = Network(Weights(state), a)(x, unit) / unit  # of (x + 1) / 2, which the network centres to x
    expected = 2 * ((x + 1) / 2 + unit**2 * score) - 1
    assert_same(prior.denoise(x, prior.schedule.level(sigma)), expected, 1e-5)


@pytest.mark.parametrize(
    "a", [SMALL, HIGH, DDPMPP, SMALL._replace(attention=(16, 4))], ids=["ve", "skips", "vp", "ends"]
)
@torch.no_grad()
def test_small_networks_in_float64(a: Architecture) -> None:
    state = random_state(a)
    found = read_score_sde(state, flags(a))
    unet = nn.Module.to(found.unet, torch.float64)
    w = Weights({name: tensor.double() for name, tensor in state.items()})
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for time in (0.6, 20.0):
        times = torch.full((2,), time, dtype=torch.float64)
        raw = Network(w, a)(x, times / 2 if a.fourier else times)
        assert_same(unet(x, times)[0], x + time * raw if a.fourier else raw, 1e-7)


@pytest.mark.parametrize("kind", ["raw", "ema", None])
def test_which_weights(tmp_path: Path, kind: str | None) -> None:
    state = random_state(HIGH)
    shadow = [2 * w for n, w in state.items() if n != "all_modules.0.W"]
    source = save(tmp_path / "checkpoint.pth", state, shadow)
    options = ["--flags", "--image_size 16", *(["--weights", kind] if kind else [])]
    assert main([str(source), str(tmp_path / "prior"), *options]) == 0
    unet = load_prior({"prior": "pixel", "path": str(tmp_path / "prior")}).unet
    factor = 1 if kind == "raw" else 2
    assert torch.equal(unet.map_layer0.weight, factor * state["all_modules.1.weight"])
    assert torch.equal(unet.map_noise.freqs, state["all_modules.0.W"])


@pytest.mark.parametrize(
    ("a", "drop", "given", "message"),
    [
        (SMALL, "", {}, "does not tell the size of its images"),
        (SMALL, "", {"image_size": 16}, r"no table of sigmas; give --flags '--sigma_min 0\.01"),
        (SMALL, "", {"image_size": 16, "sde": "vpsde"}, r"FLAGS\.sde: must be vesde for Fourier features"),
        (DDPMPP, "", {"image_size": 16}, "positional features, which do not tell its SDE"),
        (SMALL, "", {"size": 16}, r"FLAGS\.size: unknown key"),
        (SMALL, "all_modules.4.", flags(SMALL), "CHECKPOINT"),
        (SMALL, "all_modules.9.NIN_0", flags(SMALL), "CHECKPOINT"),
        (SMALL, "all_modules.9.", flags(SMALL), "CHECKPOINT"),
        (SMALL, "all_modules.4.Conv_0", flags(SMALL), "CHECKPOINT"),
        (SMALL, "all_modules.0", flags(SMALL), "CHECKPOINT"),
    ],
)
def test_what_does_not_fit_is_one_line(a: Architecture, drop: str, given: dict[str, Any], message: str) -> None:
    state = {name: w for name, w in random_state(a).items() if not drop or not name.startswith(drop)}
    with pytest.raises(RequestError, match=message) as caught:
        read_score_sde(state, given)
    assert "\n" not in str(caught.value)


def test_an_average_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "checkpoint.pth", random_state(HIGH), [torch.zeros(3)])
    assert main([str(source), str(tmp_path / "prior")]) == 2
    assert "EMA weights that do not fit its model; use --weights raw" in capsys.readouterr().err

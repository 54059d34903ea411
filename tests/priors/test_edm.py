"""A converted EDM checkpoint computes what its network and preconditioning compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ipsolve.priors import load_prior
from ipsolve.priors.networks.diffusers_folder import without_weights
from ipsolve.priors.networks.edm_checkpoint import read_edm
from ipsolve.requests.errors import RequestError
from ray_jobs.convert import main
from tests.priors import edm_reference as reference
from tests.priors.edm_reference import FFHQ, NCSNPP, SMALL, Architecture, Weights
from tests.priors.test_adm import assert_same


def converted(state: dict[str, Tensor], folder: Path, *options: str, **prior: Any) -> Any:
    """The prior that a user gets of a network inside its preconditioner, by the command."""
    save_file({f"model.{name}": tensor.contiguous() for name, tensor in state.items()}, folder / "edm.safetensors")
    assert main([str(folder / "edm.safetensors"), str(folder / "prior"), *options]) == 0
    return load_prior({"prior": "pixel", "path": str(folder / "prior"), **prior})


@torch.no_grad()
def test_ddpmpp_of_ffhq_at_its_full_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = FFHQ._replace(size=32, attention=(8,))  # an image of a quarter of the pixels, which no weight depends on
    state = reference.random_state(a)
    prior = converted(state, tmp_path)
    out = capsys.readouterr().out
    assert "recognised as an EDM network (DDPM++, preconditioning edm)" in out
    assert "61.8 M parameters" in out  # table 7: 62 million
    assert prior.image_shape == (3, 32, 32)
    levels = prior.schedule.levels(18)
    assert (levels[0].sigma, levels[-2].sigma, levels[0].alpha) == (pytest.approx(80), pytest.approx(0.002), 1)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    t = prior.schedule.level(0.7)
    assert_same(prior.denoise(x, t), reference.denoise(Weights(state), x, 0.7, a), 1e-5)


@pytest.mark.parametrize("precond", ["edm", "ve", "vp"])
@pytest.mark.parametrize(
    "a",
    [
        SMALL,
        SMALL._replace(**NCSNPP),
        SMALL._replace(**{**NCSNPP, "encoder": "skip", "decoder": "skip"}, mult=(1, 1, 2)),
        SMALL._replace(mult=(2, 1), blocks=2, attention=(16, 8), classes=7),
        SMALL._replace(adm=True, classes=7),
        SMALL._replace(adm=True, channels=64, mult=(1, 2, 3), attention=(16, 4)),
    ],
    ids=["ddpmpp", "ncsnpp", "skips", "classes", "adm", "heads"],
)
@torch.no_grad()
def test_every_kind_in_float64(a: Architecture, precond: str) -> None:
    state = reference.random_state(a)
    unet, scheduler, _ = read_edm(state, {"precond": precond})
    unet = nn.Module.to(unet, torch.float64)
    w = Weights({name: tensor.double() for name, tensor in state.items()})
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 3]) if a.classes else None
    for sigma in (0.05, 3.0):
        expected = reference.denoise(w, x, sigma, a, 3, precond)
        if precond == "vp":
            t = vp_sde(scheduler).at_ratio(sigma)  # the state of a schedule that preserves variance
            eps = unet(t.alpha * x, torch.full((2,), t.time, dtype=torch.float64), labels)[0]
            found = x - sigma * eps
        else:
            found = unet(x, torch.full((2,), sigma, dtype=torch.float64), labels)[0]
        assert_same(found, expected, 1e-7)  # frequencies in float32 are multiplied by up to 999


def vp_sde(scheduler: dict[str, Any]) -> Any:
    from ipsolve.priors.networks.prediction import PREDICTIONS
    from ipsolve.priors.networks.schedule_files import read_schedule

    found = read_schedule(scheduler, "here")
    assert found is not None
    assert found[1] == PREDICTIONS["epsilon"]
    return found[0]


def test_adm_of_imagenet_has_the_published_size() -> None:
    config = {"family": "adm", "sample_size": 64, "model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3}
    config |= {"attention": [False, True, True, True], "noise_channels": 192, "emb_channels": 768}
    unet = without_weights({"_class_name": "EdmUNet", **config, "num_class_embeds": 1000}, "here")
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == 296  # table 7


def test_precisions_and_classes(tmp_path: Path) -> None:
    state = reference.random_state(SMALL._replace(adm=True, classes=7))
    exact = converted(state, tmp_path, label=2)
    request = {"prior": "pixel", "path": str(tmp_path / "prior"), "label": 2}
    x, t = torch.randn(2, 3, 16, 16), exact.schedule.level(1.5)
    assert torch.allclose(
        load_prior(request, precision="float64").denoise(x.double(), t).float(), exact.denoise(x, t), atol=1e-4
    )
    half = load_prior(request, precision="bfloat16").denoise(x, t)
    assert half.dtype == torch.float32
    assert 0 < (half - exact.denoise(x, t)).square().mean().sqrt() < 0.05
    with pytest.raises(RequestError, match=r"prior\.label: is required"):
        load_prior({"prior": "pixel", "path": str(tmp_path / "prior")})


def change(**tensors: tuple[int, ...] | None) -> Callable[[dict[str, Tensor]], object]:
    def act(state: dict[str, Tensor]) -> None:
        for name, shape in tensors.items():
            key = name.replace("__", ".")
            state.pop(key, None)
            if shape is not None:
                state[key] = torch.zeros(shape)

    return act


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (change(spare=(1,)), {}, "holds unexpected 1 weights, the first being spare"),
        (change(map_layer1__bias=None), {}, "lacks 1 weights, the first being map_layer1.bias"),
        (change(map_layer0__weight=None), {}, "lacks map_layer0.weight"),
        (change(enc__8x8_block0__norm0__weight=None), {}, "lacks 26 weights, the first being dec.16x16_in0"),
        (change(enc__8x8_down__conv0__resample_filter=(1, 1, 3, 3)), {}, r"filters of \[2, 3\] taps"),
        (change(enc__16x16_conv__weight=(24, 3, 3, 3)), {}, "no multiple of its first 24"),
        (change(), {"precond": "iddpm"}, "FLAGS.precond: must be 'edm', 've' or 'vp'"),
        (change(), {"image_size": 64}, "FLAGS.image_size: unknown key"),
        (change(), {"precond": "vp", "sigma_max": 3.0}, "FLAGS.sigma_min: and sigma_max are not of precond vp"),
    ],
)
def test_what_does_not_fit_is_one_line(
    damage: Callable[[dict[str, Tensor]], object], flags: dict[str, Any], message: str
) -> None:
    state = reference.random_state(SMALL)
    damage(state)
    with pytest.raises(RequestError, match=message) as caught:
        read_edm(state, flags)
    assert "\n" not in str(caught.value)


def test_buffers_are_needed() -> None:
    state = {name: w for name, w in reference.random_state(SMALL).items() if not name.endswith("resample_filter")}
    with pytest.raises(
        RequestError, match=r"lacks its buffers \(resample_filter\): save state_dict\(\), not parameters"
    ):
        read_edm(state)

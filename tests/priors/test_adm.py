"""A converted guided-diffusion checkpoint computes what its network computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ipsolve.priors import load_prior, prior_spec
from ipsolve.priors.networks.adm_checkpoint import parse_flags, read_adm
from ipsolve.requests.errors import RequestError
from ray_jobs.convert import main
from tests.priors import adm_reference as reference
from tests.priors.adm_reference import FFHQ, SMALL, Architecture

README = "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --image_size 256 --learn_sigma True"
SMALL_FLAGS = "--image_size 16 --num_head_channels 16 --num_res_blocks 1 --attention_resolutions 8"


def converted(state: dict[str, Tensor], folder: Path, *options: str, **prior: Any) -> Any:
    """The prior that a user gets of a state dictionary, by the command."""
    torch.save(state, folder / "model.pt")
    assert main([str(folder / "model.pt"), str(folder / "prior"), *options]) == 0
    return load_prior({"prior": "pixel", "path": str(folder / "prior"), **prior})


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def test_ffhq_10m_at_its_full_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = reference.random_state(FFHQ)
    prior = converted(state, tmp_path)
    out = capsys.readouterr().out
    assert "recognised as ffhq_10m by its tensors" in out
    assert "93.6 M parameters" in out
    assert prior.image_shape == (3, 256, 256)
    assert [round(prior.schedule.level(t).alpha ** 2, 6) for t in (0, 999)] == [0.9999, 0.00004]
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    t = prior.schedule.level(321)
    expected = reference.forward(state, x, 321, FFHQ)
    assert_same(prior.unet(x, torch.tensor([321.0]))[0], expected, 1e-5)
    # the mean head is the noise, the other head is not looked at
    assert_same(prior.denoise(x, t), (x - t.sigma * expected[:, :3]) / t.alpha, 1e-5)


@pytest.mark.parametrize(
    ("a", "flags"),
    [
        (SMALL, ""),
        (SMALL._replace(new_order=True), "--use_new_attention_order True"),
        (SMALL._replace(updown=False), "--resblock_updown False"),
        (SMALL._replace(scale_shift=False), "--use_scale_shift_norm False"),
        (SMALL._replace(updown=False, scale_shift=False, out_channels=3), "--learn_sigma False"),
        (SMALL._replace(heads=2), "--num_heads 2 --num_head_channels -1"),
        (SMALL._replace(heads=2, mult=(1, 2, 3), attention=(1, 2), blocks=2), "--num_heads 2 --num_head_channels -1"),
        (SMALL._replace(mult=(0.5, 2), channels=64, attention=(0, 1)), "--attention_resolutions 16,8"),
        (SMALL._replace(time_scale=0.25), "--diffusion_steps 4000 --rescale_timesteps True"),
        (SMALL._replace(mult=(1,), attention=(0,)), "--attention_resolutions 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@torch.no_grad()
def test_every_flag_in_float64(a: Architecture, flags: str) -> None:
    given = parse_flags(f"--image_size 16 --num_head_channels 16 {flags}")
    state = reference.random_state(a)
    unet = nn.Module.to(read_adm(state, given).unet, torch.float64)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = {name: tensor.double() for name, tensor in state.items()}
    assert_same(unet(x, torch.tensor([77.5, 77.5]))[0], reference.forward(weights, x, 77.5, a), 1e-6)  # cos in float32


@torch.no_grad()
def test_a_class_is_chosen_in_the_request(tmp_path: Path) -> None:
    a = SMALL._replace(classes=5)
    state = reference.random_state(a)
    prior = converted(state, tmp_path, "--flags", f"{SMALL_FLAGS} --class_cond True", label=3)
    x = torch.randn(2, 3, 16, 16)
    t = prior.schedule.level(10)
    for label, same in ((3, True), (2, False)):
        eps = reference.forward(state, x, 10, a, label)[:, :3]
        assert torch.allclose(prior.denoise(x, t), (x - t.sigma * eps) / t.alpha, atol=1e-4) is same
    folder = str(tmp_path / "prior")
    prints = {prior_spec({"prior": "pixel", "path": folder, "label": label}).fingerprint() for label in (2, 3)}
    assert len(prints) == 2
    for request, message in (
        ({}, r"prior\.label: is required, .* is class-conditional; allowed: 0 to 4"),
        ({"label": 5}, r"prior\.label: must be one of the 5 classes, 0 to 4 \(got 5\)"),
        ({"label": -1}, r"prior\.label: must be greater than or equal to 0"),
        ({"label": "cat"}, r"prior\.label"),
    ):
        for act in ("check", "load"):
            with pytest.raises(RequestError, match=message):
                getattr(prior_spec({"prior": "pixel", "path": folder, **request}), act)()


def test_a_label_without_classes(tmp_path: Path) -> None:
    converted(reference.random_state(SMALL), tmp_path, "--flags", SMALL_FLAGS)
    with pytest.raises(RequestError, match=r"prior\.label: .* is not class-conditional; leave label out"):
        prior_spec({"prior": "pixel", "path": str(tmp_path / "prior"), "label": 0}).check()


def test_precisions_and_gradients(tmp_path: Path) -> None:
    state = reference.random_state(SMALL)
    exact = converted(state, tmp_path, "--flags", SMALL_FLAGS)
    x, t = torch.randn(2, 3, 16, 16), exact.schedule.level(300)
    folder = {"prior": "pixel", "path": str(tmp_path / "prior")}
    expected = exact.denoise(x, t)
    assert torch.allclose(load_prior(folder, precision="float64").denoise(x.double(), t).float(), expected, atol=1e-4)
    half = load_prior(folder, precision="bfloat16").denoise(x, t)
    assert half.dtype == torch.float32
    assert 0 < (half - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(exact.denoise(leaf, t).square().sum(), leaf)
    double, v = load_prior(folder, precision="float64"), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    change = [double.denoise(x.double() + h * v, t).square().sum() for h in (1e-5, -1e-5)]
    assert float((gradient.double() * v).sum()) == pytest.approx(float(change[0] - change[1]) / 2e-5, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "name", "size"),
    [
        (Architecture(256, (1, 1, 2, 2, 4, 4), (3, 4, 5), 2), "256x256_diffusion_uncond or lsun", 256),
        (Architecture(256, (1, 1, 2, 2, 4, 4), (3, 4, 5), 2, classes=1000), "256x256_diffusion", 256),
        (Architecture(192, (1, 2, 3, 4), (1, 2, 3), 3, classes=1000), "64x64_diffusion", 64),
        (Architecture(256, (1, 1, 2, 3, 4), (2, 3, 4), 2, classes=1000), "128x128_diffusion", 128),
        (Architecture(256, (0.5, 1, 1, 2, 2, 4, 4), (4, 5, 6), 2, classes=1000), "512x512_diffusion", 512),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_published_networks_are_recognised(a: Architecture, name: str, size: int) -> None:
    with torch.device("meta"):  # gigabytes otherwise
        state = {key: torch.empty(shape) for key, shape in reference._shapes(a)}
    found = read_adm(state)
    assert found.recognised == f"as {name} by its tensors"
    assert found.unet.architecture.sample_size == size
    assert found.unet.architecture.num_class_embeds == a.classes
    assert found.scheduler["beta_schedule"] == ("squaredcos_cap_v2" if size == 64 else "linear")


def without(*names: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: [state.pop(name) for name in [*state] if name.startswith(names)]


def put(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (put("spare", 3), SMALL_FLAGS, "holds unexpected 1 weights, the first being spare"),
        (without("middle_block.1.norm.bias"), SMALL_FLAGS, "lacks 1 weights, the first being middle_block.1.norm.bias"),
        (without("time_embed.0"), SMALL_FLAGS, "lacks time_embed.0.weight"),
        (without("output_blocks"), SMALL_FLAGS, "a classifier, not a denoiser"),
        (put("input_blocks.0.0.weight", 32, 6, 3, 3), SMALL_FLAGS, "an upsampler"),
        (put("output_blocks.9.0.in_layers.0.weight", 4), SMALL_FLAGS, "has 5 output_blocks for 2 resolutions"),
        (put("out.2.weight", 5, 32, 3, 3), SMALL_FLAGS, "out.2.bias has shape"),
        (put("nothing", 0), None, "none of the published ones .*ffhq_10m.*--flags"),
        (put("nothing", 0), "--num_heads 4", "FLAGS.image_size: is required"),
        (put("nothing", 0), "--image_size 16 --heads 4", r"FLAGS.heads: unknown key \(did you mean 'num_heads'"),
        (put("nothing", 0), "--image_size 16 --num_head_channels 24", "does not divide the 64 channels"),
        (put("nothing", 0), "--image_size 15", "15 cannot be halved 1 times"),
        (put("nothing", 0), "--image_size 16 --num_channels 64", "num_channels: is 64, but the tensors .* have 32"),
        (put("nothing", 0), "--image_size 16 --attention_resolutions 16", r"is \[16.0\], but the tensors .* \[8\]"),
        (put("nothing", 0), "--image_size 16 --class_cond True", "class_cond: is True, but the tensors .* have False"),
        (put("nothing", 0), "--image_size 16 --learn_sigma False", "learn_sigma: is False"),
        (put("nothing", 0), "--image_size 16 --channel_mult 1,x", "'1,x' is no list of numbers"),
        (put("nothing", 0), "--image_size", "must be pairs such as --image_size 256"),
        (put("nothing", 0), "flags.yaml", "neither a YAML file nor flags"),
    ],
)
def test_what_does_not_fit_is_one_line(
    damage: Callable[[dict[str, Tensor]], object], flags: str | None, message: str
) -> None:
    state = reference.random_state(SMALL)
    damage(state)
    with pytest.raises(RequestError, match=message) as caught:
        read_adm(state, None if flags is None else parse_flags(flags))
    assert "\n" not in str(caught.value)


def test_flags_as_they_are_published(tmp_path: Path) -> None:
    assert parse_flags(README) == {
        "attention_resolutions": "32,16,8",
        "class_cond": False,
        "diffusion_steps": 1000,
        "image_size": 256,
        "learn_sigma": True,
    }
    (tmp_path / "model_config.yaml").write_text(
        "image_size: 16\nnum_head_channels: 16\nmodel_path: x.pt\ndropout: 0.0\n"
    )
    flags = parse_flags(str(tmp_path / "model_config.yaml"))
    assert read_adm(reference.random_state(SMALL), flags).unet.architecture.num_head_channels == 16
    for text in ("- a", "{", "plain"):
        (tmp_path / "model_config.yaml").write_text(text)
        with pytest.raises(RequestError, match=r"FLAGS: .*(is not YAML|is not a mapping)"):
            parse_flags(str(tmp_path / "model_config.yaml"))

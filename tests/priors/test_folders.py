"""Latent and pixel priors from folders compute what diffusers computes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from ipsolve.priors import (
    LatentPrior,
    Level,
    MeteredPrior,
    load_prior,
    prior_spec,
    prior_summary,
    scaled_linear,
)
from ipsolve.priors.base import COUNTED
from ipsolve.priors.networks.autoencoders import nearest_code
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import BUILTIN, WEIGHTS, edit, small_kl, small_unet, small_vq

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def test_the_builtin_prior_is_what_diffusers_computes(portraits: LatentPrior) -> None:
    folder = ROOT / "ipsolve" / "priors" / "builtin" / "portraits-64"
    options = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    unet = UNet2DModel.from_pretrained(folder / "unet", **options).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", **options).eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(100)
    x, z = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        mean, image, eps = vae.encode(x).latent_dist.mean, vae.decode(z).sample, unet(z, 400).sample
    assert torch.allclose(portraits.encode(x), mean, atol=1e-4)
    assert torch.allclose(portraits.decode(z), image, atol=1e-4)
    x_0 = scheduler.step(eps, 400, z).pred_original_sample
    t = portraits.schedule.level(400)
    assert torch.allclose(portraits.denoise(z, t), x_0, atol=1e-3)
    with torch.no_grad():
        between = unet(z, torch.tensor(400.5)).sample
    assert not torch.allclose(between, eps, atol=1e-4)
    halfway = Level(400.5, t.alpha, t.sigma)
    assert torch.allclose(portraits.denoise(z, halfway), (z - t.sigma * between) / t.alpha, atol=1e-3)


def test_the_builtin_prior_knows_portraits(portraits: LatentPrior) -> None:
    """A latent of its own that is noised a little is found again, better than by the noisy latent itself."""
    z = portraits.encode(portraits.decode(torch.zeros(1, 8, 16, 16)))
    t = portraits.schedule.level(200)
    noise = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    x_0 = portraits.denoise(t.alpha * z + t.sigma * noise, t)
    assert (x_0 - z).square().mean() < 0.5 * t.ratio**2


def test_shapes_and_summary(portraits: LatentPrior) -> None:
    assert (portraits.image_shape, portraits.latent_shape) == ((3, 64, 64), (8, 16, 16))
    assert prior_summary(BUILTIN) == ((3, 64, 64), True, {"adaptable"}, portraits.schedule)
    assert not any(p.requires_grad for p in [*portraits.unet.parameters(), *portraits.autoencoder.parameters()])
    assert not portraits.unet.training
    assert not portraits.autoencoder.training


def test_every_image_stands_alone(portraits_float64: LatentPrior) -> None:
    z = torch.randn(3, 8, 16, 16, dtype=torch.float64)
    t = portraits_float64.schedule.level(300)
    for f in (lambda z: portraits_float64.denoise(z, t), portraits_float64.decode):
        assert torch.allclose(f(z)[1:2], f(z[1:2]), rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences(portraits_float64: LatentPrior) -> None:
    prior, t = portraits_float64, portraits_float64.schedule.level(300)
    z, v = torch.randn(2, 1, 8, 16, 16, dtype=torch.float64)
    for f in (lambda z: prior.denoise(z, t), prior.decode, lambda z: prior.encode(prior.decode(z))):
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).square().sum(), leaf)
        difference = (f(z + 1e-5 * v).square().sum() - f(z - 1e-5 * v).square().sum()) / 2e-5
        assert float((gradient * v).sum()) == pytest.approx(float(difference), rel=1e-5)


def test_precisions_agree(portraits: LatentPrior, portraits_float64: LatentPrior) -> None:
    half = load_prior(BUILTIN, precision="bfloat16")
    z, t = torch.randn(2, 8, 16, 16), portraits.schedule.level(500)
    exact = portraits_float64.decode(z.double())
    for prior, tolerance in ((portraits, 1e-5), (half, 0.05)):
        image = prior.decode(z)
        assert image.dtype == prior.denoise(z, t).dtype == torch.float32
        assert (image - exact).square().mean().sqrt() < tolerance
    assert not torch.allclose(half.decode(z), portraits.decode(z), atol=1e-5)


def test_memory_layout_does_not_change_values(portraits_float64: LatentPrior) -> None:
    plain = load_prior({**BUILTIN, "channels_last": False}, precision="float64")
    z, t = torch.randn(2, 8, 16, 16, dtype=torch.float64), plain.schedule.level(500)
    assert torch.allclose(plain.denoise(z, t), portraits_float64.denoise(z, t), rtol=1e-9, atol=1e-9)
    assert plain.decode(z).is_contiguous()
    assert portraits_float64.decode(z).is_contiguous()


def test_calls_are_metered(portraits: LatentPrior) -> None:
    metered = MeteredPrior(portraits, 2)
    z = torch.randn(2, 8, 16, 16, requires_grad=True)
    x = metered.decode(metered.denoise(z, portraits.schedule.level(9)))
    x.sum().backward()
    metered.encode(x.detach())
    assert {name: count.tolist() for name, count in metered.counts.items()} == {name: [1, 1] for name in COUNTED}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_are_those_of_diffusers(make_folder: Make, prediction_type: str) -> None:
    folder = make_folder({"prediction_type": prediction_type}, unet=small_unet())
    prior = load_prior({"prior": "pixel", "path": str(folder)})
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(100)
    x_t = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        out = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)(x_t, 700).sample
    expected = scheduler.step(out, 700, x_t).pred_original_sample
    assert torch.allclose(prior.denoise(x_t, prior.schedule.level(700)), expected, rtol=1e-4, atol=1e-4)


def test_pixel_prior(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(out_channels=6))
    prior = load_prior({"prior": "pixel", "path": str(folder)})
    assert (prior.image_shape, prior.latent_shape, prior.latent) == ((3, 8, 8), (3, 8, 8), False)
    x_t, t = torch.randn(2, 3, 8, 8), prior.schedule.level(10)
    eps = prior.unet(x_t, 10).sample[:, :3]  # the other half are variances
    assert torch.allclose(prior.denoise(x_t, t), (x_t - t.sigma * eps) / t.alpha, atol=1e-5)
    assert prior.encode(x_t) is x_t
    assert prior.decode(x_t) is x_t
    able = {"adaptable", "learned_variance"}
    assert prior_summary({"prior": "pixel", "path": str(folder)}) == ((3, 8, 8), False, able, prior.schedule)


def test_pixel_prior_on_patches(make_folder: Make) -> None:
    """A UNet of 3 p^2 channels sees each p x p patch as channels; the noise of an image is that of its patches."""
    folder = make_folder(unet=small_unet(channels=12))
    prior = load_prior({"prior": "pixel", "path": str(folder)}, precision="float64")
    assert prior_summary({"prior": "pixel", "path": str(folder)}).image_shape == prior.image_shape == (3, 16, 16)
    x_t, t = torch.randn(2, 3, 16, 16, dtype=torch.float64), prior.schedule.level(500)
    patches = x_t.reshape(2, 3, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 8, 8)
    eps = UNet2DModel.from_pretrained(folder / "unet").double()(patches, 500).sample
    x_0 = (patches - t.sigma * eps) / t.alpha
    expected = x_0.reshape(2, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 16, 16)
    torch.testing.assert_close(prior.denoise(x_t, t), expected, rtol=1e-8, atol=1e-8)


def test_vq_latents_are_not_rescaled_by_the_class_default(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(), vqvae=small_vq())
    assert json.loads((folder / "vqvae" / "config.json").read_text())["scaling_factor"] == 0.18215
    config = {"prior": "latent", "path": str(folder)}
    prior, chosen = load_prior(config), load_prior({**config, "scaling_factor": 0.18215})
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        code = prior.autoencoder.encode(x).latents
    assert prior.scaling_factor == 1.0
    assert torch.allclose(prior.encode(x), code, atol=1e-6)
    assert torch.allclose(chosen.encode(x), 0.18215 * code, atol=1e-6)
    assert torch.allclose(chosen.decode(chosen.encode(x)), prior.decode(code), atol=1e-5)


def test_vq_decoding_quantises_as_diffusers_does(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(), vqvae=small_vq())
    config = {"prior": "latent", "path": str(folder)}
    prior, raw = load_prior(config), load_prior({**config, "quantize": False})
    z = (0.1 * torch.randn(2, 3, 8, 8)).requires_grad_()
    for ours, options in ((prior, {}), (raw, {"force_not_quantize": True})):
        image, expected = ours.decode(z), prior.autoencoder.decode(z, **options).sample
        assert torch.allclose(image, expected, atol=1e-5)
        (ours_grad,), (theirs,) = (torch.autograd.grad(i.square().sum(), z) for i in (image, expected))
        assert torch.allclose(ours_grad, theirs, atol=1e-3 * float(theirs.abs().max()))
    assert not torch.allclose(prior.decode(z), raw.decode(z), atol=1e-3)


def test_nearest_code_in_chunks() -> None:
    u, codebook = torch.randn(2, 3, 5, 7, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    index = torch.cdist(u.movedim(1, -1).reshape(-1, 3), codebook).argmin(1)
    expected = codebook[index].reshape(2, 5, 7, 3).movedim(-1, 1)
    assert torch.allclose(nearest_code(u, codebook, chunk=11), expected)


@pytest.mark.parametrize(
    ("stated", "mean", "gain"),
    [
        ({"scaling_factor": 0.5}, 0.0, 0.5),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 0.25, 0.5),
        (
            {"scaling_factor": 1.0, "latents_mean": [1.0, 2.0, 3.0], "latents_std": [2.0, 4.0, 8.0]},
            [1, 2, 3],
            [0.5, 0.25, 0.125],
        ),
    ],
)
def test_kl_latents_are_scaled_as_stated(make_folder: Make, stated: dict[str, Any], mean: Any, gain: Any) -> None:
    prior = load_prior({"prior": "latent", "path": str(make_folder(unet=small_unet(), vae=small_kl(**stated)))})
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        code = prior.autoencoder.encode(x).latent_dist.mean
        image = prior.autoencoder.decode(code).sample
    mean, gain = (torch.as_tensor(v).reshape(1, -1, 1, 1) for v in (mean, gain))
    assert torch.allclose(prior.encode(x), (code - mean) * gain, atol=1e-5)
    assert torch.allclose(prior.decode((code - mean) * gain), image, atol=1e-5)


def test_half_precision_and_old_names_load(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet())
    expected = load_prior({"prior": "pixel", "path": str(folder)}).unet.state_dict()
    path = folder / "unet" / WEIGHTS
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, tensor in load_file(path).items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[name] = tensor.half()
    assert any(".proj_attn." in name for name in renamed)
    save_file(renamed, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    path.unlink()
    loaded = load_prior({"prior": "pixel", "path": str(folder)}).unet.state_dict()
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].half().float())


def test_schedules_of_the_folder(make_folder: Make) -> None:
    betas = [0.1, 0.2, 0.3]
    folder = make_folder(
        {"trained_betas": betas, "num_train_timesteps": 3, "steps_offset": 0, "set_alpha_to_one": True},
        unet=small_unet(),
    )
    schedule = load_prior({"prior": "pixel", "path": str(folder)}).schedule
    assert schedule.alphas_cumprod == pytest.approx((0.9, 0.72, 0.504))
    assert (schedule.steps_offset, schedule.end_clean) == (0, True)
    edit(
        folder / "scheduler" / "scheduler_config.json",
        trained_betas=None,
        num_train_timesteps=1000,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    assert load_prior({"prior": "pixel", "path": str(folder)}).schedule == scaled_linear(0.0015, 0.0195)


def test_loading_is_silent() -> None:
    code = f"from ipsolve.priors import load_prior; load_prior({BUILTIN!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_latent_prior_of_a_class(make_folder: Make) -> None:
    """A class-conditional network is told its class; one is required, and refused where there are none."""
    told = small_unet(num_class_embeds=4)
    folder = make_folder(unet=told, vae=small_kl())
    request = {"prior": "latent", "path": str(folder)}
    x, time = torch.randn(2, 3, 8, 8), 300
    for label in (0, 3):
        prior_spec(request | {"label": label}).check()
        prior = load_prior(request | {"label": label})
        t = prior.schedule.level(time)
        with torch.no_grad():
            eps = told(x, time, class_labels=torch.tensor([label] * 2)).sample
        torch.testing.assert_close((x - t.alpha * prior.denoise(x, t)) / t.sigma, eps, rtol=1e-4, atol=1e-4)
        adapted = prior.adapted()
        torch.testing.assert_close(adapted.denoise(x, t), prior.denoise(x, t))
    prints = {prior_spec(request | {"label": label}).fingerprint() for label in (0, 1)}
    assert len(prints) == 2
    for wrong, line in (
        ({}, r"prior\.label: is required, .* is class-conditional; allowed: 0 to 3"),
        ({"label": 4}, r"prior\.label: must be one of the 4 classes, 0 to 3 \(got 4\)"),
        ({"label": "cat"}, r"prior\.label"),
    ):
        for act in ("check", "load"):
            with pytest.raises(RequestError, match=line):
                getattr(prior_spec(request | wrong), act)()
    with pytest.raises(RequestError, match=r"prior\.label: .* is not class-conditional; leave label out"):
        prior_spec({**BUILTIN, "label": 0}).check()

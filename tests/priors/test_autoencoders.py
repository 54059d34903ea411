"""AutoencoderTiny and AutoencoderDC, saved by diffusers: the codes and images that it computes itself."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderTiny

from ipsolve.priors import load_prior, prior_spec, prior_summary
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import edit, small_kl, small_unet, small_vq

Make = Callable[..., Path]


def small_tiny(**config: Any) -> AutoencoderTiny:
    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    return AutoencoderTiny(**{**widths, **blocks, "latent_channels": 3, **config})


def small_dc(**config: Any) -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=3,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        **config,
    )


def autoencoder(kind: str) -> tuple[Any, int, float]:
    """Return an autoencoder, pixels to a latent along each axis, and its scaling factor."""
    match kind:
        case "tiny":
            return small_tiny(scaling_factor=0.5), 4, 0.5
        case "dc":
            return small_dc(scaling_factor=0.41407), 2, 0.41407
        case _:
            return small_kl(scaling_factor=0.5), 2, 0.5


@pytest.mark.parametrize("kind", ["tiny", "dc", "kl"])
def test_codes_and_images_are_those_of_diffusers(make_folder: Make, kind: str) -> None:
    network, factor, scale = autoencoder(kind)
    folder = make_folder(unet=small_unet(), vae=network)
    request = {"prior": "latent", "path": str(folder)}
    prior_spec(request).check()
    prior = load_prior(request, precision="float64")
    assert prior_summary(request).image_shape == prior.image_shape == (3, 8 * factor, 8 * factor)
    theirs = type(network).from_pretrained(folder / "vae", low_cpu_mem_usage=False).double().eval()
    x = torch.rand(2, *prior.image_shape, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        code = theirs.encode(x)[0]
        code = code.mode() if kind == "kl" else code
        torch.testing.assert_close(prior.encode(x), scale * code, rtol=1e-6, atol=1e-6)
        z = prior.encode(x)
        assert z.shape[1:] == prior.latent_shape == (3, 8, 8)
        torch.testing.assert_close(prior.decode(z), theirs.decode(z / scale).sample, rtol=1e-6, atol=1e-6)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(prior.decode(z).square().sum(), z)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("network", [small_tiny(), small_dc(), small_kl(), small_vq()], ids=lambda n: type(n).__name__)
def test_absent_keys_are_the_defaults_of_the_class(make_folder: Make, network: Any) -> None:
    """A hand-written configuration may hold what differs from the class alone: it loads as diffusers loads it."""
    component = "vqvae" if type(network).__name__ == "VQModel" else "vae"
    folder = make_folder(unet=small_unet(), **{component: network})
    whole = load_prior({"prior": "latent", "path": str(folder)})
    path = folder / component / "config.json"
    config = json.loads(path.read_text())
    parameters = inspect.signature(type(network).__init__).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    kept = {key: value for key, value in config.items() if key == "_class_name" or value != listed.get(key, object())}
    assert len(kept) < len(config)
    path.write_text(json.dumps(kept))
    lean = load_prior({"prior": "latent", "path": str(folder)})
    assert lean.image_shape == whole.image_shape
    x = torch.rand(1, *whole.image_shape)
    torch.testing.assert_close(lean.encode(x), whole.encode(x))
    torch.testing.assert_close(lean.decode(lean.encode(x)), whole.decode(whole.encode(x)))


def test_halves_of_different_factors_are_refused(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(), vae=small_tiny())
    edit(folder / "vae" / "config.json", upsampling_scaling_factor=3)
    with pytest.raises(RequestError, match="encodes 4 pixels into one and decodes one to 9"):
        prior_spec({"prior": "latent", "path": str(folder)}).check()

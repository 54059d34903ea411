"""One clear line where a prior's request or folder is wrong; a fingerprint that follows every byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ipsolve.priors import PRIORS, load_prior, prior_spec
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import BUILTIN, WEIGHTS, edit, small_unet, small_vq

Make = Callable[..., Path]


def test_fingerprint_follows_every_byte_and_option(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(), vqvae=small_vq())
    config = {"prior": "latent", "path": str(folder)}
    first = prior_spec(config).fingerprint()
    assert prior_spec(config).fingerprint() == first
    assert prior_spec({**config, "quantize": False}).fingerprint() != first
    assert prior_spec({**config, "compile": True}).fingerprint() == first  # how, not what
    weights = folder / "unet" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    second = prior_spec(config).fingerprint()
    edit(folder / "scheduler" / "scheduler_config.json", beta_end=0.02)
    assert len({first, second, prior_spec(config).fingerprint()}) == 3


def one_line(config: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        load_prior(config)
    assert "\n" not in str(caught.value)


def test_requests_that_name_nothing(tmp_path: Path) -> None:
    names = "consistency, fitted_mixture, flux, latent, mixture, pixel, stable_diffusion"
    one_line({}, rf"prior\.prior: is required; allowed: {names}")
    one_line({"prior": "latnet"}, "did you mean 'latent'")
    one_line({"prior": "latent"}, r"prior\.path: is required")
    one_line(
        {"prior": "latent", "path": "x", "scaling": 1}, r"prior\.scaling: unknown key \(did you mean 'scaling_factor'"
    )
    one_line({**BUILTIN, "scaling_factor": 0}, r"prior\.scaling_factor: must be greater than 0")
    one_line({"prior": "latent", "path": "builtin:nobody"}, "built in: builtin:portraits-64")
    one_line({"prior": "latent", "path": "builtin:../builtin/portraits-64"}, "no prior")
    one_line({"prior": "latent", "path": str(tmp_path / "absent")}, "does not exist")
    (tmp_path / "model.ckpt").touch()
    one_line({"prior": "latent", "path": str(tmp_path / "model.ckpt")}, r"python -m ray_jobs\.convert")
    assert list(PRIORS) == names.split(", ")


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename(folder / f"{name}.gone")


def state(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **changes)


def pickled(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "unet" / WEIGHTS)
    del weights["conv_in.bias"]
    save_file(weights, folder / "unet" / WEIGHTS)


def garble(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).write_bytes(b"not safetensors at all")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("vqvae"), "neither vae/ nor vqvae/"),
        (drop("unet"), r"has no unet/config\.json"),
        (drop("scheduler"), r"has no scheduler/scheduler_config\.json"),
        (drop(f"unet/{WEIGHTS}"), "has no diffusion_pytorch_model.safetensors"),
        (pickled, r"diffusion_pytorch_model\.bin\).*python -m ray_jobs\.convert"),
        (lose_a_weight, "lacks 1 weights, the first being conv_in.bias"),
        (garble, "is not a safetensors file"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "is not JSON"),
        (state("unet/config.json", _class_name="UNet2DConditionModel"), "UNet2DConditionModel; allowed: UNet2DModel"),
        (state("vqvae/config.json", _class_name="VQVAE"), "VQVAE; allowed: AutoencoderKL, VQModel"),
        (state("unet/config.json", block_out_channels=[8, 32]), r"has shape \(16.*its configuration implies \(32"),
        (state("unet/config.json", down_block_types=["DownBlock2D"]), "is not valid"),
        (state("unet/config.json", in_channels=4, out_channels=4), "has 3 latent channels, unet takes 4"),
        (state("unet/config.json", out_channels=5), "out_channels is 5; allowed: 3 or 6"),
        (state("unet/config.json", sample_size=None), "sample_size is not set"),
        (
            state("scheduler/scheduler_config.json", prediction_type="flow"),
            "'flow'; allowed: epsilon",
        ),
        (
            state("scheduler/scheduler_config.json", beta_schedule="sigmoid"),
            "'sigmoid'; allowed: linear",
        ),
        (state("scheduler/scheduler_config.json", rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(make_folder: Make, damage: Callable[[Path], None], message: str) -> None:
    folder = make_folder(unet=small_unet(), vqvae=small_vq())
    damage(folder)
    one_line({"prior": "latent", "path": str(folder)}, message)

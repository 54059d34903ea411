"""Small prior folders with random weights, and the built-in prior."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel

from ipsolve.priors import LatentPrior, load_prior
from ipsolve.priors.networks.ldm_vq4 import SCHEDULER

WEIGHTS = "diffusion_pytorch_model.safetensors"
BUILTIN = {"prior": "latent", "path": "builtin:portraits-64"}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="session")
def portraits() -> LatentPrior:
    return load_prior(BUILTIN)


@pytest.fixture(scope="session")
def portraits_float64() -> LatentPrior:
    return load_prior(BUILTIN, precision="float64")


def small_unet(channels: int = 3, out_channels: int | None = None, sample_size: int = 8, **config: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=channels,
        out_channels=out_channels or channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        **config,
    )


def small_vq() -> VQModel:
    return VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=32,
        norm_num_groups=4,
        sample_size=16,
    )


def small_kl(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        **config,
    )


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes networks and a schedule to a folder in diffusers layout, by diffusers itself."""

    def make(scheduler: dict[str, Any] | None = None, **networks: Any) -> Path:
        for component, network in networks.items():
            torch.manual_seed(0)
            for parameter in network.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            network.save_pretrained(tmp_path / component)
        (tmp_path / "scheduler").mkdir()
        content = {**SCHEDULER, **(scheduler or {})}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
        return tmp_path

    return make

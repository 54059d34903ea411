"""A folder of ``google/ncsnpp-*`` denoises as ``ScoreSdeVePipeline`` reads its network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler, UNet2DModel
from torch import Tensor

from ipsolve.priors import load_prior, prior_spec


def ncsnpp(size: int = 16, width: int = 32) -> UNet2DModel:
    """The published configuration with two resolutions of seven."""
    unet = UNet2DModel(
        sample_size=size,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        attention_head_dim=None,
        center_input_sample=True,
        norm_num_groups=None,
        norm_eps=1e-6,
        mid_block_scale_factor=2**0.5,
        time_embedding_type="fourier",
        downsample_padding=1,
    )
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return unet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    ScoreSdeVePipeline(unet=ncsnpp(), scheduler=ScoreSdeVeScheduler(sigma_max=348.0)).save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_tweedie_on_images_in_the_unit_range(folder: Path) -> None:
    request = {"prior": "pixel", "path": str(folder)}
    prior_spec(request).check()
    prior = load_prior(request, precision="float64")
    assert prior.image_shape == (3, 16, 16)
    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval().double()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1

    def expected(noisy: Tensor, sigma: float) -> Tensor:
        """In their units: [0, 1], a noise of sigma / 2, and the output is the score."""
        unit, their_sigma = (noisy + 1) / 2, sigma / 2
        score = unet(unit, torch.full((2,), their_sigma, dtype=torch.float64)).sample
        return 2 * (unit + their_sigma**2 * score) - 1

    for sigma in (0.02, 1.0, 696.0):
        noisy = x + sigma * torch.randn_like(x)
        found = prior.denoise(noisy, prior.schedule.level(sigma))
        assert torch.allclose(found, expected(noisy, sigma), rtol=1e-9, atol=1e-9)
    assert prior.schedule.levels(10)[0].sigma == pytest.approx(696)

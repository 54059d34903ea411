"""PSNR and SSIM equal their reference implementations and treat every image on its own."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ipsolve.conventions import to_unit_range
from ipsolve.metrics import METRICS
from ipsolve.requests.errors import RequestError


def pair(batch: int = 4, size: int = 40, scale: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.rand(batch, 3, size + 4, size + 4, generator=generator), 5, 1) * 4 - 3
    return x + scale * torch.randn(x.shape, generator=generator), x


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return to_unit_range(x.double()).permute(0, 2, 3, 1).numpy()


def test_psnr_is_that_of_scikit_image() -> None:
    x_hat, x = pair()
    expected = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in zip(as_numpy(x_hat), as_numpy(x), strict=True)]
    np.testing.assert_allclose(METRICS["psnr"]()(x_hat, x).numpy(), expected, rtol=1e-10)


def test_ssim_is_that_of_scikit_image() -> None:
    x_hat, x = pair()
    settings = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1,
        "channel_axis": -1,
    }
    expected = [structural_similarity(b, a, **settings) for a, b in zip(as_numpy(x_hat), as_numpy(x), strict=True)]
    np.testing.assert_allclose(METRICS["ssim"]()(x_hat, x).numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_overshoot_is_clipped_and_batches_do_not_matter(name: str) -> None:
    metric = METRICS[name]()
    x_hat, x = pair(scale=1.0)
    assert x_hat.abs().max() > 1
    together = metric(x_hat, x)
    torch.testing.assert_close(together, metric(x_hat.clamp(-1, 1), x), rtol=0, atol=0)
    alone = torch.cat([metric(x_hat[i : i + 1], x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_identical_images_score_perfectly() -> None:
    _, x = pair()
    assert all(math.isinf(value) for value in METRICS["psnr"]()(x, x).tolist())
    torch.testing.assert_close(METRICS["ssim"]()(x, x), torch.ones(4, dtype=torch.float64))


def test_noise_of_known_size_has_the_psnr_of_its_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(1, 3, 256, 256, dtype=torch.float64)
    noise_std = 0.1  # in [-1, 1] units, hence 0.05 on the scale of the metric
    value = METRICS["psnr"]()(x + noise_std * torch.randn(x.shape, generator=generator, dtype=torch.float64), x)
    assert value.item() == pytest.approx(-20 * math.log10(noise_std / 2), abs=0.05)


def test_ssim_of_a_tiny_image_is_refused_in_one_line() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(RequestError, match="at least 11 pixels"):
        METRICS["ssim"]()(x, x)

"""PSNR and SSIM of each image, on [0, 1] with data range 1."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import to_unit_range
from ipsolve.metrics.base import METRICS, Metric, require_real
from ipsolve.requests.errors import RequestError


@METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Psnr(Metric):
    """Peak signal-to-noise ratio in dB, 10 log10(1 / MSE) over all pixels and channels; inf for identical images.

    Of complex signals it is over real and imaginary parts, each of which lies in [-1, 1] as any channel.
    """

    name: ClassVar[str] = "psnr"
    higher_is_better: ClassVar[bool] = True
    unit: ClassVar[str] = "dB"
    decimals: ClassVar[int] = 2
    meaning: ClassVar[str] = "dB, on [0, 1] with data range 1"
    exact: ClassVar[float | None] = 150.0  # the rounding of float32

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        error = to_unit_range(x_hat.double()) - to_unit_range(x.double())
        return -10 * error.square().flatten(1).mean(1).log10()


@METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Ssim(Metric):
    """Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004, eq. 13), averaged over channels, slices and frames.

    Gaussian window of 11 pixels and std 1.5, K = (0.01, 0.03), population variances, mean over the positions in
    which the window fits: the settings of the paper. It equals scikit-image with ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1``; torchmetrics pads by reflection and averages over the padding too.
    """

    name: ClassVar[str] = "ssim"
    citation: ClassVar[Citation] = Citation(
        key="wang2004ssim",
        authors="Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.",
        title="Image Quality Assessment: From Error Visibility to Structural Similarity",
        year=2004,
        venue="IEEE Transactions on Image Processing",
    )
    higher_is_better: ClassVar[bool] = True
    meaning: ClassVar[str] = "Gaussian window 11, std 1.5, on [0, 1]"
    window: ClassVar[int] = 11

    def check(self, image_shape: tuple[int, ...]) -> None:
        require_real(self.name, image_shape)
        if len(image_shape) < 3 or min(image_shape[-2:]) < self.window:
            raise RequestError(f"ssim needs images of at least {self.window} pixels, not {tuple(image_shape[-2:])}")

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        self.check(tuple(x.shape[1:]))
        # float64, because variances are differences of moments
        a, b = to_unit_range(x_hat.double()), to_unit_range(x.double())
        mean_a, mean_b, square_a, square_b, product = self._blur(torch.stack([a, b, a * a, b * b, a * b]))
        variances = square_a - mean_a**2 + square_b - mean_b**2
        covariance = product - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        structure = (2 * covariance + c2) / (variances + c2)
        maps: Tensor = luminance * structure
        return maps.flatten(1).mean(1)

    def _blur(self, x: Tensor) -> Tensor:
        """Window every image where the window fits, (..., H, W) -> (..., H - 10, W - 10)."""
        offsets = torch.arange(self.window, dtype=x.dtype, device=x.device) - self.window // 2
        kernel = torch.softmax(-(offsets**2) / (2 * 1.5**2), 0)
        maps = F.conv2d(x.reshape(-1, 1, *x.shape[-2:]), kernel.view(1, 1, -1, 1))
        maps = F.conv2d(maps, kernel.view(1, 1, 1, -1))
        return maps.reshape(*x.shape[:-2], *maps.shape[-2:])

"""Feature networks: clean-fid's Inception, and the built-in prior's own state space."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipsolve.conventions import to_uint8
from ipsolve.metrics.base import FEATURES, FeatureExtractor
from ipsolve.metrics.weights import PublishedFile, missing_package

if TYPE_CHECKING:
    from ipsolve.priors.base import Prior

INCEPTION = PublishedFile(
    "inception-2015-12-05.pt",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    key="weights.inception",
    folders=("/tmp",),  # clean-fid's own, hard-coded place
)
BUILTIN_PRIOR = {"prior": "latent", "path": "builtin:portraits-64"}


@FEATURES.register
class Inception(FeatureExtractor):
    """The 2048 features of clean-fid (Parmar, Zhang & Zhu 2022, arXiv 2104.11222), with its resizing.

    Images are rounded to 8 bits as they would be in a PNG file, resized to 299 x 299 by clean-fid's antialiased
    bicubic filter without rounding, and described by the TorchScript Inception-v3 of StyleGAN2-ADA. That file is
    code: it is loaded only after its SHA-256 matched.
    """

    name: ClassVar[str] = "inception"
    column: ClassVar[str] = "inception_features"
    _model: nn.Module | None = None

    def unavailable(self) -> str | None:
        return missing_package("cleanfid", "clean-fid") or INCEPTION.unavailable(
            self.weights.inception, self.weights.inception_sha256
        )

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        from cleanfid.resize import build_resizer

        resize = build_resizer("clean")
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([resize(image) for image in pixels])).permute(0, 3, 1, 2)
        features: Tensor = self._load().to(images.device)(resized.to(images.device))
        return features.float()

    def _load(self) -> nn.Module:
        if self._model is None:
            from cleanfid.inception_torchscript import InceptionV3W

            content = INCEPTION.read(self.weights.inception, self.weights.inception_sha256)
            with tempfile.TemporaryDirectory() as private:  # the checked bytes, out of reach of other users
                (Path(private) / INCEPTION.name).write_bytes(content)
                self._model = InceptionV3W(private, download=False).eval()
        return self._model


@FEATURES.register
class PriorFeatures(FeatureExtractor):
    """The pooled state of ``builtin:portraits-64``, whichever prior is being evaluated: always there, never "FID".

    Images of another size are resized to 64 x 64 by antialiased bicubic interpolation (torch), then clipped.
    """

    name: ClassVar[str] = "prior"
    column: ClassVar[str] = "features"
    _prior: Prior | None = None
    _device: torch.device | None = None

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        from ipsolve.priors import load_prior
        from ipsolve.priors.features import prior_features

        if self._prior is None or self._device != images.device:
            self._prior, self._device = load_prior(BUILTIN_PRIOR, images.device), images.device
        size = self._prior.image_shape[1:]
        small = images.float()
        if small.shape[-2:] != size:
            small = F.interpolate(small, size=size, mode="bicubic", antialias=True, align_corners=False)
        return prior_features(self._prior, small.clamp(-1, 1)).float()

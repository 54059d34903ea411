"""Feature networks: clean-fid's Inception, and the built-in prior's own state space."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.citation import Citation
from ipsolve.conventions import to_uint8
from ipsolve.metrics.base import FEATURES, FeatureExtractor, require_rgb
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
@dataclass(frozen=True, config={"extra": "forbid"})
class Inception(FeatureExtractor):
    """The 2048 features of clean-fid (Parmar, Zhang & Zhu 2022, arXiv 2104.11222), with its resizing.

    Images are rounded to 8 bits as they would be in a PNG file, resized to 299 x 299 by clean-fid's antialiased
    bicubic filter without rounding, and described by the TorchScript Inception-v3 of StyleGAN2-ADA. That file is
    code: it is loaded only after its SHA-256 matched.

    Args:
        path: of that file; None, where its libraries put it.
        sha256: that it must have; None, the published one.
    """

    name: ClassVar[str] = "inception"
    citation: ClassVar[Citation] = Citation(
        key="parmar2022cleanfid",
        authors="Parmar, Gaurav and Zhang, Richard and Zhu, Jun-Yan",
        title="On Aliased Resizing and Surprising Subtleties in GAN Evaluation",
        year=2022,
        venue="CVPR",
        arxiv="2104.11222",
    )
    column: ClassVar[str] = "inception_features"
    WEIGHTS: ClassVar[Mapping[str, str]] = {"path": "inception", "sha256": "inception_sha256"}

    path: str | None = None
    sha256: str | None = None

    def unavailable(self) -> str | None:
        return missing_package("cleanfid", "clean-fid") or INCEPTION.unavailable(self.path, self.sha256)

    def check(self, image_shape: tuple[int, ...]) -> None:
        require_rgb(self.name, image_shape)

    def identity(self) -> dict[str, Any]:
        digest = (self.sha256 or INCEPTION.sha256).lower()
        return {} if digest == INCEPTION.sha256 else {"inception_sha256": digest}

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        from cleanfid.resize import build_resizer

        resize = build_resizer("clean")
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([resize(image) for image in pixels])).permute(0, 3, 1, 2)
        features: Tensor = self._network.to(images.device)(resized.to(images.device))
        return features.float()

    @cached_property
    def _network(self) -> nn.Module:
        from cleanfid.inception_torchscript import InceptionV3W

        content = INCEPTION.read(self.path, self.sha256)
        with tempfile.TemporaryDirectory() as private:  # the checked bytes, out of reach of other users
            (Path(private) / INCEPTION.name).write_bytes(content)
            network: nn.Module = InceptionV3W(private, download=False).eval()
        return network


@FEATURES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PriorFeatures(FeatureExtractor):
    """The pooled state of ``builtin:portraits-64``, whichever prior is being evaluated: always there, never "FID".

    Images of another size are resized to 64 x 64 by antialiased bicubic interpolation (torch), then clipped.
    """

    name: ClassVar[str] = "prior"
    column: ClassVar[str] = "features"

    def check(self, image_shape: tuple[int, ...]) -> None:
        require_rgb(self.name, image_shape)

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        from ipsolve.priors.features import prior_features

        prior = self._prior_on(images.device)
        size = prior.image_shape[1:]
        small = images.float()
        if small.shape[-2:] != size:
            small = F.interpolate(small, size=size, mode="bicubic", antialias=True, align_corners=False)
        return prior_features(prior, small.clamp(-1, 1)).float()

    def _prior_on(self, device: torch.device) -> Prior:
        from ipsolve.priors import load_prior

        if device not in self._priors:
            self._priors[device] = load_prior(BUILTIN_PRIOR, device)
        return self._priors[device]

    @cached_property
    def _priors(self) -> dict[torch.device, Prior]:
        return {}

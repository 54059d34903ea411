"""A Gaussian mixture fitted to images, read from a folder: an image prior with an exact denoiser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ipsolve.priors.base import Shape
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.networks.unet import Precision
from ipsolve.priors.schedules import linear
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError

WEIGHTS, DESCRIPTION = "mixture.safetensors", "mixture.json"
TENSORS = ("log_weights", "means", "variances", "bases", "residual")


def write_mixture(folder: Path, mixture: GaussianMixture, image_shape: Shape, how: Mapping[str, Any]) -> None:
    """Write the prior folder of a mixture with low-rank components; ``how`` tells where it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: getattr(mixture, name).float().contiguous() for name in TENSORS}, folder / WEIGHTS)
    description = {"image_shape": list(image_shape), "fit": dict(how)}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FittedMixtureSpec(PriorSpec):
    """A folder that ``python -m ray_jobs.fit_mixture`` wrote: a mixture of low-rank Gaussians of images.

    Args:
        path: the folder.
    """

    name: ClassVar[str] = "fitted_mixture"
    path: str

    def summary(self) -> PriorSummary:
        description = self._file(DESCRIPTION)
        try:
            channels, height, width = map(int, json.loads(description.read_text())["image_shape"])
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"prior.path: {description} does not state an image_shape of three numbers") from None
        return PriorSummary((channels, height, width), latent=False, schedule=linear())

    def fingerprint(self) -> str:
        return hashlib.sha256(self._file(WEIGHTS).read_bytes()).hexdigest()

    def check(self) -> None:
        self.summary()
        try:
            with safe_open(self._file(WEIGHTS), framework="pt") as file:
                found = set(file.keys())
        except SafetensorError as error:
            raise RequestError(f"prior.path: {self._file(WEIGHTS)} is not a fitted mixture: {error}") from None
        if lacking := [name for name in TENSORS if name not in found]:
            raise RequestError(f"prior.path: {self._file(WEIGHTS)} is not a fitted mixture: it has no {lacking[0]}")

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> MixturePrior:
        shape = self.summary().image_shape
        try:
            tensors = load_file(self._file(WEIGHTS), device=str(device))
            weights, means, variances, bases, residual = (tensors[name].double() for name in TENSORS)
        except (SafetensorError, KeyError) as error:
            raise RequestError(f"prior.path: {self._file(WEIGHTS)} is not a fitted mixture: {error}") from None
        # stored in float32: orthonormal again to float64, or the denoiser would not be that of the density
        bases = torch.linalg.qr(bases)[0]
        return MixturePrior(GaussianMixture(weights, means, variances, bases, residual), shape)

    def _file(self, name: str) -> Path:
        path = Path(self.path) / name
        if not path.is_file():
            raise RequestError(
                f"prior.path: {path} does not exist; python -m ray_jobs.fit_mixture writes such a folder, "
                "for the portraits: python -m ray_jobs.fit_mixture configs/priors/portraits64_mixture.yaml"
            )
        return path

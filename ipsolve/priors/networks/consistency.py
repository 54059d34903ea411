"""Consistency models: one call maps a state to where the probability flow from it ends (Song et al. 2023, arXiv
2303.01469)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.priors.networks.diffusers_folder import has_autoencoder, resolve
from ipsolve.priors.networks.hub import PriorPath
from ipsolve.priors.networks.latent import LatentPrior, LatentSpec
from ipsolve.priors.networks.pixel import PixelPrior, PixelSpec
from ipsolve.priors.networks.unet import Precision
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ConsistencySpec(PriorSpec):
    """A folder of a consistency model: of images, or with ``vae/`` or ``vqvae/`` of latents.

    Its scheduler is ``CMStochasticIterativeScheduler`` or ``LCMScheduler``. ``denoise`` returns f(x_t, t): a draw of
    the images that x_t may have come from, if not an exact one, where a diffusion model returns their mean. Methods
    that are written for the mean run with it, and what they compute is then no longer what their papers say.

    Args:
        path: the folder, ``hf:ORG/NAME`` or ``builtin:NAME``. Weights are safetensors only.
        label: the class of a class-conditional network, for all images; None for others.
        variant: which of several weights are read, such as ``fp16``.
        compile: whether the networks go through torch.compile.
        channels_last: memory layout of the networks.
    """

    name: ClassVar[str] = "consistency"
    path: PriorPath
    label: Annotated[int, Field(ge=0)] | None = None
    variant: str | None = None
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        found = self._folder().summary()
        if "consistency" not in found.abilities:
            kind = "latent" if found.latent else "pixel"
            what = "by its scheduler is no consistency model (CMStochasticIterativeScheduler, LCMScheduler)"
            raise RequestError("prior.path", f"{self.path} {what}; allowed: prior: {kind}")
        return found

    def fingerprint(self) -> str:
        return self._folder().fingerprint()

    def check(self) -> None:
        self.summary()
        self._folder().check()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> LatentPrior | PixelPrior:
        self.summary()
        return self._folder().load(device, precision)

    def _folder(self) -> LatentSpec | PixelSpec:
        folder = resolve(self.path, self.variant)
        kind = LatentSpec if has_autoencoder(folder) else PixelSpec
        settings = {"compile": self.compile, "channels_last": self.channels_last}
        return kind(path=self.path, label=self.label, variant=self.variant, **settings)

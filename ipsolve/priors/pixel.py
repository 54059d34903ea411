"""Diffusion priors on images themselves: a UNet and a noise schedule."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass

from ipsolve.priors.diffusers_folder import fingerprint, resolve
from ipsolve.priors.schedules import Schedule
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.priors.unet import (
    DEFAULT_EXECUTION,
    Execution,
    Precision,
    UNetPrior,
    load_unet,
    state_shape,
    unet_state_shape,
)


class PixelPrior(UNetPrior):
    """A diffusion model of images, (B, C, H, W) in [-1, 1]; ``encode`` and ``decode`` are the identity."""

    name = "pixel"

    def __init__(
        self, unet: Any, schedule: Schedule, prediction_type: str = "epsilon", execution: Execution = DEFAULT_EXECUTION
    ) -> None:
        super().__init__(unet, schedule, prediction_type, execution)
        self.image_shape = self.latent_shape = state_shape(dict(unet.config), "unet")


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PixelSpec(PriorSpec):
    """A folder in diffusers layout: ``unet/`` (UNet2DModel) and ``scheduler/``, safetensors only.

    Args:
        path: the folder, or ``builtin:NAME``.
        compile: whether the network goes through torch.compile.
        channels_last: memory layout of the network.
    """

    name: ClassVar[str] = "pixel"
    path: str
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        return PriorSummary(unet_state_shape(resolve(self.path)), latent=False)

    def fingerprint(self) -> str:
        return hashlib.sha256(fingerprint(resolve(self.path), ("unet", "scheduler")).encode()).hexdigest()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> PixelPrior:
        self.summary()
        execution = Execution(device, precision, self.compile, self.channels_last)
        return PixelPrior(*load_unet(resolve(self.path), execution.dtype), execution)

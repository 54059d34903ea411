"""Diffusion priors on images themselves: a UNet and a noise schedule."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.diffusers_folder import fingerprint, network_config, resolve
from ipsolve.priors.networks.hub import PriorPath
from ipsolve.priors.networks.own import UNETS
from ipsolve.priors.networks.prediction import Prediction
from ipsolve.priors.networks.summaries import summary_of
from ipsolve.priors.networks.unet import (
    DEFAULT_EXECUTION,
    Execution,
    Precision,
    UNetPrior,
    check_unet,
    load_unet,
    state_shape,
    unet_state_shape,
    variance_of,
)
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary


class PixelPrior(UNetPrior):
    """A diffusion model of images, (B, C, H, W) in [-1, 1]; ``encode`` and ``decode`` are the identity.

    A UNet of 3 p^2 channels takes images cut into patches of p x p pixels, the pixels of a patch as its channels:
    a permutation of the numbers, with which a small network sees a large image.
    """

    name = "pixel"

    def __init__(
        self,
        unet: Any,
        schedule: Schedule,
        prediction: Prediction | str = "epsilon",
        execution: Execution = DEFAULT_EXECUTION,
    ) -> None:
        super().__init__(unet, schedule, prediction, execution)
        state = state_shape(dict(unet.config), "unet")
        self.patch_size = patch_size(state)
        self.image_shape = self.latent_shape = images_of_patches(state)

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        if self.patch_size == 1:
            return super().denoise(x_t, t)
        return pixel_shuffle(super().denoise(pixel_unshuffle(x_t, self.patch_size), t), self.patch_size)

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        if self.patch_size == 1:
            return super().denoise_with_variance(x_t, t)
        x_0, v = super().denoise_with_variance(pixel_unshuffle(x_t, self.patch_size), t)
        return pixel_shuffle(x_0, self.patch_size), pixel_shuffle(v, self.patch_size)


def patch_size(state: Shape) -> int:
    """Return p of states (3 p^2, h, w); 1 where the channels are no such number."""
    side = math.isqrt(state[0] // 3)
    return side if state[0] == 3 * side**2 else 1


def images_of_patches(state: Shape) -> Shape:
    """Return the shape of the images that a UNet on states of this shape is of."""
    channels, height, width = state
    p = patch_size(state)
    return channels // p**2, height * p, width * p


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PixelSpec(PriorSpec):
    """A folder in diffusers layout: ``unet/`` and ``scheduler/``, safetensors only.

    The UNet is diffusers' UNet2DModel, or a network that ``python -m ray_jobs.convert`` writes (ADM, EDM, score_sde).

    Both may lie at the top of the folder, as in older published ones (google/ddpm-*).

    Args:
        path: the folder, ``hf:ORG/NAME`` or ``builtin:NAME``.
        label: the class of a class-conditional network, for all images; None for others.
        variant: which of several weights are read, such as ``fp16`` or ``non_ema``.
        compile: whether the network goes through torch.compile.
        channels_last: memory layout of the network.
    """

    name: ClassVar[str] = "pixel"
    path: PriorPath
    label: Annotated[int, Field(ge=0)] | None = None
    variant: str | None = None
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        folder = resolve(self.path, self.variant)
        shape = images_of_patches(unet_state_shape(folder))
        return summary_of(folder, shape, latent=False, abilities=variance_of(network_config(folder, "unet", UNETS)))

    def fingerprint(self) -> str:
        files = fingerprint(resolve(self.path, self.variant), ("unet", "scheduler"), self.variant)
        chosen = "" if self.label is None else f" label {self.label}"
        return hashlib.sha256(f"{files}{chosen}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        check_unet(resolve(self.path, self.variant), self.variant, label=self.label)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> PixelPrior:
        self.summary()
        execution = Execution(device, precision, self.compile, self.channels_last)
        folder = resolve(self.path, self.variant)
        return PixelPrior(*load_unet(folder, execution.dtype, self.variant, label=self.label), execution)

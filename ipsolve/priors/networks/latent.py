"""Latent diffusion priors: an autoencoder and a UNet on its latents (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.autoencoders import (
    AUTOENCODERS,
    autoencoder_component,
    check_autoencoder,
    code_of,
    image_of,
    image_shape,
    nearest_code,
    quantises,
)
from ipsolve.priors.networks.autoencoders import scaling_factor as factor_of
from ipsolve.priors.networks.diffusers_folder import (
    Config,
    fingerprint,
    load_network,
    network_config,
    resolve,
)
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
from ipsolve.priors.schedules import Schedule
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary


class LatentPrior(UNetPrior):
    """A diffusion model of latents z = (encoder(x) - mean) * gain.

    ``encode`` is deterministic: the posterior mean of an AutoencoderKL, the latent before quantisation of a VQModel.
    ``decode`` of a VQModel replaces each latent vector by the nearest of the codebook, as the CompVis code does,
    with a straight-through gradient (van den Oord et al. 2017, arXiv 1711.00937).

    Args:
        unet, schedule, prediction, execution: see :class:`UNetPrior`.
        autoencoder: of diffusers, one of :data:`AUTOENCODERS`.
        scaling_factor: the factor the UNet was trained with. None takes that of the configuration for AutoencoderKL,
            and for VQModel too unless it is the class default 0.18215, which stands for 1.
        quantize: whether ``decode`` of a VQModel quantises.
        latent_shape: (C, H, W); None takes it from the configuration of the UNet.
    """

    name = "latent"
    latent = True

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        schedule: Schedule,
        prediction: Prediction | str = "epsilon",
        execution: Execution = DEFAULT_EXECUTION,
        *,
        scaling_factor: float | None = None,
        quantize: bool = True,
        latent_shape: Shape | None = None,
    ) -> None:
        super().__init__(unet, schedule, prediction, execution)
        self.autoencoder: Any = execution.place(autoencoder)
        config: Config = {**self.autoencoder.config, "_class_name": type(autoencoder).__name__}
        self.latent_shape = state_shape(dict(unet.config), "unet") if latent_shape is None else latent_shape
        self.image_shape = image_shape(config, self.latent_shape, "autoencoder")
        self.quantize = quantize and quantises(autoencoder)
        self.scaling_factor = factor_of(config) if scaling_factor is None else scaling_factor
        self._mean = self._per_channel(config.get("latents_mean"), config.get("shift_factor") or 0.0)
        self._gain = self.scaling_factor / self._per_channel(config.get("latents_std"), 1.0)
        if execution.compile:
            self.autoencoder.encoder.compile()
            self.autoencoder.decoder.compile()

    def encode(self, x: Tensor) -> Tensor:
        code = self.execution.run(lambda x: code_of(self.autoencoder, x), x)
        return (code - self._mean) * self._gain

    def decode(self, z: Tensor) -> Tensor:
        u = z / self._gain + self._mean
        if self.quantize:
            u = nearest_code(u, self.autoencoder.quantize.embedding.weight)
        return self.execution.run(lambda u: image_of(self.autoencoder, u), u)

    def _per_channel(self, values: list[float] | None, default: float) -> Tensor:
        numbers = torch.tensor([default] if values is None else values, dtype=self.execution.dtype)
        return numbers.reshape(1, -1, 1, 1).to(self.execution.device)


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class LatentSpec(PriorSpec):
    """A folder in diffusers layout: ``vae/`` or ``vqvae/``, ``unet/`` (UNet2DModel) and ``scheduler/``.

    Args:
        path: the folder, ``hf:ORG/NAME`` or ``builtin:NAME``. Weights are safetensors only.
        label: the class of a class-conditional network, for all images; None for others.
        variant: which of several weights of a network are read, such as ``fp16`` or ``non_ema``.
        scaling_factor: the factor between encoder and UNet; None: see :class:`LatentPrior`.
        quantize: whether ``decode`` of a VQModel quantises, as the CompVis code does.
        compile: whether the networks go through torch.compile.
        channels_last: memory layout of the networks.
    """

    name: ClassVar[str] = "latent"
    path: PriorPath
    label: Annotated[int, Field(ge=0)] | None = None
    variant: str | None = None
    scaling_factor: Annotated[float, Field(gt=0)] | None = None
    quantize: bool = True
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        folder = resolve(self.path, self.variant)
        component = autoencoder_component(folder)
        config = network_config(folder, component, AUTOENCODERS)
        shape = image_shape(config, unet_state_shape(folder), f"prior.path: {folder / component}")
        return summary_of(folder, shape, latent=True, abilities=variance_of(network_config(folder, "unet", UNETS)))

    def fingerprint(self) -> str:
        folder = resolve(self.path, self.variant)
        files = fingerprint(folder, (autoencoder_component(folder), "unet", "scheduler"), self.variant)
        chosen = "" if self.label is None else f" label {self.label}"
        return hashlib.sha256(f"{files} {self.scaling_factor} {self.quantize}{chosen}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        folder = resolve(self.path, self.variant)
        check_unet(folder, self.variant, label=self.label)
        check_autoencoder(folder, autoencoder_component(folder), unet_state_shape(folder), self.variant)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> LatentPrior:
        self.summary()
        folder = resolve(self.path, self.variant)
        execution = Execution(device, precision, self.compile, self.channels_last)
        component = autoencoder_component(folder)
        autoencoder = load_network(folder, component, AUTOENCODERS, execution.dtype, self.variant)
        unet, schedule, prediction = load_unet(folder, execution.dtype, self.variant, label=self.label)
        return LatentPrior(
            unet,
            autoencoder,
            schedule,
            prediction,
            execution,
            scaling_factor=self.scaling_factor,
            quantize=self.quantize,
        )

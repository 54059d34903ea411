"""Latent diffusion priors: an autoencoder and a UNet on its latents (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.diffusers_folder import (
    Config,
    check_network,
    fingerprint,
    load_network,
    network_config,
    resolve,
)
from ipsolve.priors.networks.unet import (
    DEFAULT_EXECUTION,
    Execution,
    Precision,
    UNetPrior,
    check_unet,
    load_unet,
    state_shape,
    unet_state_shape,
)
from ipsolve.priors.schedules import Schedule
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError

AUTOENCODERS = ("AutoencoderKL", "VQModel")
_VQ_CLASS_DEFAULT = 0.18215  # what VQModel writes when nobody chose a factor: no fact about the checkpoint


class LatentPrior(UNetPrior):
    """A diffusion model of latents z = (encoder(x) - mean) * gain.

    ``encode`` is deterministic: the posterior mean of an AutoencoderKL, the latent before quantisation of a VQModel.
    ``decode`` of a VQModel replaces each latent vector by the nearest of the codebook, as the CompVis code does,
    with a straight-through gradient (van den Oord et al. 2017, arXiv 1711.00937).

    Args:
        unet, schedule, prediction_type, execution: see :class:`UNetPrior`.
        autoencoder: a diffusers ``AutoencoderKL`` or ``VQModel``.
        scaling_factor: the factor the UNet was trained with. None takes that of the configuration for AutoencoderKL,
            and for VQModel too unless it is the class default 0.18215, which stands for 1.
        quantize: whether ``decode`` of a VQModel quantises.
    """

    name = "latent"
    latent = True

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        schedule: Schedule,
        prediction_type: str = "epsilon",
        execution: Execution = DEFAULT_EXECUTION,
        *,
        scaling_factor: float | None = None,
        quantize: bool = True,
    ) -> None:
        super().__init__(unet, schedule, prediction_type, execution)
        self.autoencoder: Any = execution.place(autoencoder)
        config: Config = dict(self.autoencoder.config)
        self.latent_shape = state_shape(dict(unet.config), "unet")
        self.image_shape = image_shape(config, self.latent_shape, "autoencoder")
        self._vq = hasattr(autoencoder, "quantize")
        self.quantize = quantize and self._vq
        self.scaling_factor = _scaling_factor(config, self._vq) if scaling_factor is None else scaling_factor
        self._mean = self._per_channel(config.get("latents_mean"), config.get("shift_factor") or 0.0)
        self._gain = self.scaling_factor / self._per_channel(config.get("latents_std"), 1.0)
        if execution.compile:
            self.autoencoder.encoder.compile()
            self.autoencoder.decoder.compile()

    def encode(self, x: Tensor) -> Tensor:
        return (self.execution.run(self._encode, x) - self._mean) * self._gain

    def decode(self, z: Tensor) -> Tensor:
        u = z / self._gain + self._mean
        if self.quantize:
            u = nearest_code(u, self.autoencoder.quantize.embedding.weight)
        return self.execution.run(self._decode, u)

    def _encode(self, x: Tensor) -> Tensor:
        code = self.autoencoder.encode(x, return_dict=False)[0]
        return code if self._vq else code.mode()  # type: ignore[no-any-return]

    def _decode(self, u: Tensor) -> Tensor:
        # quantised by now, in full precision: under autocast the nearest code would be searched in bfloat16
        options = {"force_not_quantize": True} if self._vq else {}
        return self.autoencoder.decode(u, return_dict=False, **options)[0]  # type: ignore[no-any-return]

    def _per_channel(self, values: list[float] | None, default: float) -> Tensor:
        numbers = torch.tensor([default] if values is None else values, dtype=self.execution.dtype)
        return numbers.reshape(1, -1, 1, 1).to(self.execution.device)


def nearest_code(u: Tensor, codebook: Tensor, chunk: int = 8192) -> Tensor:
    """Return u with each vector replaced by the nearest row of ``codebook``; its gradient is that of the identity.

    Args:
        u: (B, C, H, W).
        codebook: (K, C).
        chunk: vectors compared at once, which bounds memory to ``chunk`` x K numbers.
    """
    with torch.no_grad():
        vectors = u.movedim(1, -1).reshape(-1, u.shape[1])
        energy = codebook.square().sum(1)
        # |u - e|^2 = |u|^2 - 2 <u, e> + |e|^2, whose first term does not choose
        index = torch.cat([torch.addmm(energy, v, codebook.T, alpha=-2).argmin(1) for v in torch.split(vectors, chunk)])
        quantized = codebook[index].reshape(u.movedim(1, -1).shape).movedim(-1, 1)
    return u + (quantized - u).detach()


def image_shape(config: Config, latent_shape: Shape, where: str) -> Shape:
    """Return the image shape (C, H, W) that an autoencoder decodes latents of ``latent_shape`` to.

    Raises:
        RequestError: the autoencoder has another number of latent channels than the UNet.
    """
    channels = int(config.get("vq_embed_dim") or config["latent_channels"])
    if channels != latent_shape[0]:
        raise RequestError(f"{where} has {channels} latent channels, unet takes {latent_shape[0]} (in_channels)")
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    return int(config["in_channels"]), latent_shape[1] * factor, latent_shape[2] * factor


def _scaling_factor(config: Config, vq: bool) -> float:
    factor = float(config.get("scaling_factor") or 1.0)
    return 1.0 if vq and factor == _VQ_CLASS_DEFAULT else factor


def _autoencoder(folder: Path) -> str:
    for component in ("vae", "vqvae"):
        if (folder / component).is_dir():
            return component
    raise RequestError(f"prior.path: {folder} has neither vae/ nor vqvae/; without an autoencoder use prior: pixel")


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class LatentSpec(PriorSpec):
    """A folder in diffusers layout: ``vae/`` or ``vqvae/``, ``unet/`` (UNet2DModel) and ``scheduler/``.

    Args:
        path: the folder, or ``builtin:NAME``. Weights are safetensors only.
        scaling_factor: the factor between encoder and UNet; None: see :class:`LatentPrior`.
        quantize: whether ``decode`` of a VQModel quantises, as the CompVis code does.
        compile: whether the networks go through torch.compile.
        channels_last: memory layout of the networks.
    """

    name: ClassVar[str] = "latent"
    path: str
    scaling_factor: Annotated[float, Field(gt=0)] | None = None
    quantize: bool = True
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        folder = resolve(self.path)
        component = _autoencoder(folder)
        config = network_config(folder, component, AUTOENCODERS)
        shape = image_shape(config, unet_state_shape(folder), f"prior.path: {folder / component}")
        return PriorSummary(shape, latent=True)

    def fingerprint(self) -> str:
        folder = resolve(self.path)
        files = fingerprint(folder, (_autoencoder(folder), "unet", "scheduler"))
        return hashlib.sha256(f"{files} {self.scaling_factor} {self.quantize}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        folder = resolve(self.path)
        check_network(folder, _autoencoder(folder), AUTOENCODERS)
        check_unet(folder)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> LatentPrior:
        self.summary()
        folder, execution = resolve(self.path), Execution(device, precision, self.compile, self.channels_last)
        autoencoder = load_network(folder, _autoencoder(folder), AUTOENCODERS, execution.dtype)
        unet, schedule, prediction_type = load_unet(folder, execution.dtype)
        return LatentPrior(
            unet,
            autoencoder,
            schedule,
            prediction_type,
            execution,
            scaling_factor=self.scaling_factor,
            quantize=self.quantize,
        )

"""What pixel and latent priors share: a UNet that denoises the states of a discrete schedule."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ipsolve.priors.base import Prior, Shape
from ipsolve.priors.networks.diffusers_folder import Config, check_network, load_network, load_schedule, network_config
from ipsolve.priors.networks.own import UNETS
from ipsolve.priors.networks.preconditioning import ScoreInUnitRange, WithLabel
from ipsolve.priors.networks.schedule_files import SCORE
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.requests.errors import RequestError

Precision = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class Execution:
    """Where and how networks run.

    ``bfloat16`` is autocast around the networks: weights, inputs and outputs stay float32. ``channels_last`` is the
    memory layout of the convolutions; it changes speed, and values only by rounding.
    """

    device: torch.device | str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, inputs and outputs."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: nn.Module) -> Any:
        """Freeze a network and move it to its device, dtype and layout."""
        network = network.eval().requires_grad_(False)
        # the cast not by network.to: that of diffusers warns even where it changes nothing
        nn.Module.to(network, self.device, self.dtype)
        return network.to(memory_format=self.layout)

    def run(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``network(x)`` in the dtype of ``x`` and in plain layout, (B, ...)."""
        autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16)
        with autocast if self.precision == "bfloat16" else nullcontext():
            out = network(x.contiguous(memory_format=self.layout))
        return out.to(x.dtype).contiguous()


DEFAULT_EXECUTION = Execution()


class UNetPrior(Prior):
    """A UNet that denoises states, (B, *latent_shape).

    Args:
        unet: a diffusers ``UNet2DModel``, or a network that is called as one. One with 2C output channels (learned
            variances, Nichol & Dhariwal 2021, arXiv 2102.09672) is read by its first C.
        schedule: the noise schedule it was trained with.
        prediction_type: what it returns: ``epsilon``, ``v_prediction`` (v = alpha eps - sigma x_0, Salimans & Ho
            2022, arXiv 2202.00512, app. D) or ``sample`` (x_0).
        execution: device, precision, layout.
    """

    def __init__(self, unet: nn.Module, schedule: Schedule, prediction_type: str, execution: Execution) -> None:
        self.unet = execution.place(unet)
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.execution = execution
        if execution.compile:
            self.unet.compile()

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        if t.sigma == 0:
            return x_t / t.alpha
        # a tensor, because UNet2DModel truncates a Python number to an integer time
        time = torch.full((len(x_t),), t.time, dtype=x_t.dtype, device=x_t.device)
        out = self.execution.run(lambda x: self.unet(x, time, return_dict=False)[0], x_t)[:, : x_t.shape[1]]
        match self.prediction_type:
            case "epsilon":
                return (x_t - t.sigma * out) / t.alpha
            case "v_prediction":
                return t.alpha * x_t - t.sigma * out
            case _:
                return out


def check_unet(folder: Path, label: int | None = None) -> None:
    """Raise RequestError where :func:`load_unet` would; no weights are loaded."""
    load_schedule(folder)
    _check_label(network_config(folder, "unet", UNETS), label, folder)
    check_network(folder, "unet", UNETS)


def load_unet(folder: Path, dtype: torch.dtype, label: int | None = None) -> tuple[nn.Module, Schedule, str]:
    """Return the UNet of a folder in diffusers layout, its schedule and its prediction type.

    Args:
        folder: of the prior.
        dtype: of the weights.
        label: the class of a class-conditional network.

    Raises:
        RequestError: a component is missing, of another class, or does not fit its configuration; a label without
            classes, or none where there are.
    """
    schedule, prediction_type = load_schedule(folder)
    _check_label(network_config(folder, "unet", UNETS), label, folder)
    unet = load_network(folder, "unet", UNETS, dtype)
    if label is not None:
        unet = WithLabel(unet, label)
    if prediction_type == SCORE:
        return ScoreInUnitRange(unet), schedule, "sample"
    return unet, schedule, prediction_type


def _check_label(config: Config, label: int | None, folder: Path) -> None:
    classes, kind = config.get("num_class_embeds"), config.get("class_embed_type")
    if kind is not None:
        raise RequestError(
            "prior.path", f"{folder / 'unet'} is conditioned on class_embed_type {kind!r}: not supported"
        )
    if classes is None and label is not None:
        raise RequestError("prior.label", f"{folder} is not class-conditional; leave label out")
    if classes is not None and label is None:
        raise RequestError("prior.label", f"is required, {folder} is class-conditional; allowed: 0 to {classes - 1}")
    if label is not None and classes is not None and not 0 <= label < classes:
        raise RequestError("prior.label", f"must be one of the {classes} classes, 0 to {classes - 1} (got {label})")


def unet_state_shape(folder: Path) -> Shape:
    """Return the shape of the states, (C, H, W), that the UNet of a folder was trained on, from its configuration.

    Raises:
        RequestError: the configuration states no size, or its channels are not those of a denoiser.
    """
    return state_shape(network_config(folder, "unet", UNETS), f"prior.path: {folder / 'unet' / 'config.json'}")


def state_shape(config: Config, where: str) -> Shape:
    """Return (C, H, W) of the configuration of a UNet; RequestError as :func:`unet_state_shape`."""
    channels, out_channels = int(config.get("in_channels", 3)), int(config.get("out_channels", 3))
    if out_channels not in (channels, 2 * channels):
        raise RequestError(
            f"{where}: out_channels is {out_channels}; allowed: {channels} or {2 * channels} (in_channels)"
        )
    size = config.get("sample_size")
    if size is None:
        raise RequestError(f"{where}: sample_size is not set; it must be the size of the states")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return channels, int(height), int(width)

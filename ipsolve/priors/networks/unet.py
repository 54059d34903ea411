"""What pixel and latent priors share: a UNet that denoises the states of a discrete schedule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ipsolve.priors.base import Prior, Shape
from ipsolve.priors.networks.diffusers_folder import (
    Config,
    check_network,
    component_folder,
    load_network,
    network_config,
)
from ipsolve.priors.networks.own import UNETS
from ipsolve.priors.networks.preconditioning import WithLabel
from ipsolve.priors.networks.prediction import CONSISTENCY, PREDICTIONS, Prediction
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.networks.tracing import require_output
from ipsolve.priors.schedules import FlowMatching, Level, Schedule
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits

Precision = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class Execution:
    """Where and how networks run.

    ``bfloat16`` is autocast around the networks: weights, inputs and outputs stay float32; weights are bfloat16 too
    where ``lean``, which is for denoisers of many gigabytes. ``channels_last`` is the memory layout of the
    convolutions; it changes speed, and values only by rounding.
    """

    device: torch.device | str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = True
    lean: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of inputs and outputs, and of weights unless ``lean``."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def weights(self) -> torch.dtype:
        """The dtype of the weights of a denoiser."""
        return torch.bfloat16 if self.lean and self.precision == "bfloat16" else self.dtype

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: nn.Module, dtype: torch.dtype | None = None) -> Any:
        """Freeze a network and move it to its device, layout and dtype (None: that of inputs)."""
        network = network.eval().requires_grad_(False)
        # the cast not by network.to: that of diffusers warns even where it changes nothing
        nn.Module.to(network, self.device, dtype or self.dtype)
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
            variances, Nichol & Dhariwal 2021, arXiv 2102.09672) is read by its first C; the others are v, in [-1, 1].
        schedule: the noise schedule it was trained with.
        prediction: what it returns, see :mod:`ipsolve.priors.networks.prediction`: ``epsilon``, ``v_prediction`` or
            ``sample``, or how else it is to be read.
        execution: device, precision, layout.
    """

    def __init__(self, unet: nn.Module, schedule: Schedule, prediction: Prediction | str, execution: Execution) -> None:
        self.unet = execution.place(unet, execution.weights)
        self.schedule = schedule
        self.prediction = PREDICTIONS[prediction] if isinstance(prediction, str) else prediction
        self.abilities = abilities_of(self.prediction, schedule) | variance_of(dict(unet.config))  # type: ignore[arg-type]
        self.execution = execution
        if execution.compile:
            self.unet.compile()

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        if t.sigma == 0:
            return x_t / t.alpha
        return self.prediction.clean(x_t, self.output(x_t, t)[:, : x_t.shape[1]], t)

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        if "learned_variance" not in self.abilities:
            return super().denoise_with_variance(x_t, t)
        out, v = self.output(x_t, t).chunk(2, 1)
        return self.prediction.clean(x_t, out, t), (v.detach() + 1) / 2

    def output(self, x_t: Tensor, t: Level) -> Tensor:
        """Return what the UNet says of states, (B, C, H, W) -> (B, C or 2C, H, W)."""
        # a tensor, because UNet2DModel truncates a Python number to an integer time
        time = torch.full((len(x_t),), self.prediction.time(t), dtype=x_t.dtype, device=x_t.device)
        return self.execution.run(lambda x: self.network(x, time), self.prediction.inputs(x_t, t))

    def network(self, x: Tensor, time: Tensor) -> Tensor:
        """Return what the UNet makes of its own input, (B, C, H, W), and times, (B,)."""
        return self.unet(x, time, return_dict=False)[0]  # type: ignore[no-any-return]

    def adapted(self) -> Self:
        adapted = copy.copy(self)
        # of full precision: small steps on bfloat16 would change nothing
        adapted.unet = nn.Module.to(copy.deepcopy(self.unet), self.execution.dtype).requires_grad_(True)
        return adapted

    def parameters(self) -> list[nn.Parameter]:
        return [each for each in self.unet.parameters() if each.requires_grad]


def abilities_of(prediction: Prediction, schedule: Schedule) -> Traits:
    """Return the abilities of a :class:`UNetPrior` whose network is read so."""
    kinds = {"flow": isinstance(schedule, FlowMatching), "consistency": isinstance(prediction, CONSISTENCY)}
    return frozenset({"adaptable", *(name for name, holds in kinds.items() if holds)})


def variance_of(config: Config) -> Traits:
    """Return the ability of a UNet that has a second output for each channel, as its configuration says."""
    twice = config.get("out_channels", 3) == 2 * config.get("in_channels", 3)
    return frozenset({"learned_variance"} if twice else ())


def check_unet(
    folder: Path, variant: str | None = None, allowed: Collection[str] = UNETS, label: int | None = None
) -> None:
    """Raise RequestError where :func:`load_unet` would, or where the states are not of a size that it can take.

    No weights are loaded.
    """
    load_schedule(folder)
    config = network_config(folder, "unet", allowed)
    _check_label(config, label, folder)
    network: Any = check_network(folder, "unet", allowed, variant)
    if config["_class_name"] == "UNet2DConditionModel":
        return  # what it is told beside the state is for who tells it
    told = network if label is None else WithLabel(network, label)
    channels, height, width = unet_state_shape(folder, allowed)
    out = (int(config.get("out_channels", 3)), height, width)
    where = f"prior.path: {component_folder(folder, 'unet')}"
    require_output(lambda x: told(x, torch.ones(1), return_dict=False)[0], (channels, height, width), out, where)


def load_unet(
    folder: Path,
    dtype: torch.dtype,
    variant: str | None = None,
    allowed: Collection[str] = UNETS,
    label: int | None = None,
) -> tuple[nn.Module, Schedule, Prediction]:
    """Return the UNet of a folder in diffusers layout, its schedule and how it is to be read.

    Args:
        folder: of the prior.
        dtype: of the weights.
        variant: which of several weights are read.
        allowed: the classes of networks.
        label: the class of a class-conditional network.

    Raises:
        RequestError: a component is missing, of another class, or does not fit its configuration; a label without
            classes, or none where there are.
    """
    _check_label(network_config(folder, "unet", allowed), label, folder)
    unet = load_network(folder, "unet", allowed, dtype, variant)
    return (unet if label is None else WithLabel(unet, label)), *load_schedule(folder)


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


def unet_state_shape(folder: Path, allowed: Collection[str] = UNETS, component: str = "unet") -> Shape:
    """Return the shape of the states, (C, H, W), that the network of a folder was trained on, from its configuration.

    Raises:
        RequestError: the configuration states no size, or its channels are not those of a denoiser.
    """
    where = component_folder(folder, component) / "config.json"
    return state_shape(network_config(folder, component, allowed), f"prior.path: {where}")


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

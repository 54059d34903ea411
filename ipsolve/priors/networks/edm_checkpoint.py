"""State dictionaries of EDM (``SongUNet``, ``DhariwalUNet``) and EDM2: the architecture read off names and tensors.

What they do not tell, the preconditioning and the standard deviation of the images, are the published values unless
flags say other: ``--precond edm|ve|vp --sigma_data 0.5``, as NVlabs/edm calls them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.priors.networks.diffusers_folder import Config, fill, without_weights
from ipsolve.priors.networks.edm2 import SMALLEST
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

Weights = Mapping[str, Tensor]
Positive = Annotated[float, Field(gt=0)]
Shape = Callable[[str], torch.Size]


@dataclass(frozen=True, config={"extra": "forbid"})
class EdmFlags:
    """How a checkpoint was trained: the preconditioning (table 1 of the paper) and its sigmas."""

    precond: Literal["edm", "ve", "vp"] = "edm"
    sigma_data: Positive = 0.5
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None


class EdmCheckpoint(NamedTuple):
    """The network of a checkpoint, the configuration of its noise schedule, and how it was recognised."""

    unet: nn.Module
    scheduler: Config
    recognised: str


class Sides(NamedTuple):
    """The resolutions of a network, by the names of its modules."""

    sides: list[int]
    blocks: int
    attention: list[bool]


def read_edm(state: Weights, given: Mapping[str, Any] | None = None) -> EdmCheckpoint:
    """Return the network of the state dictionary of an EDM network, without its preconditioner.

    Raises:
        RequestError: tensors are missing, unexpected or of other shapes than the architecture has; unknown flags.
    """
    flags = build(EdmFlags, dict(given or {}), "FLAGS")
    weights = {name: tensor.float() for name, tensor in state.items()}
    weights.pop("map_augment.weight", None)  # 0 is fed to it outside of training
    shape = _shapes(weights)
    found = _sides(weights, "norm0")
    at = [f"{side}x{side}" for side in found.sides]
    base = shape(f"enc.{at[0]}_conv.weight")
    adm = "out_conv.weight" in weights
    label = shape("map_label.weight")[1] if "map_label.weight" in weights else None
    encoder = next(
        (kind for kind in ("skip", "residual") if any(f"aux_{kind}." in name for name in weights)), "standard"
    )
    config: Config = {
        "_class_name": "EdmUNet",
        "family": "adm" if adm else "song",
        "sample_size": found.sides[0],
        "in_channels": base[1],
        "out_channels": shape("out_conv.weight" if adm else f"dec.{at[0]}_aux_conv.weight")[0],
        "model_channels": base[0],
        "channel_mult": [_multiple(shape(f"enc.{side}_block0.conv1.weight")[0], base[0]) for side in at],
        "attention": found.attention,
        "num_blocks": found.blocks,
        "noise_channels": shape("map_layer0.weight")[1],
        "emb_channels": shape("map_layer0.weight")[0],
        "embedding": "fourier" if "map_noise.freqs" in weights else "positional",
        "encoder": encoder,
        "decoder": "skip" if len(at) > 1 and f"dec.{at[-1]}_aux_conv.weight" in weights else "standard",
        "taps": _taps(weights),
        "num_class_embeds": label,
        "preconditioning": "none" if flags.precond == "vp" else flags.precond,
        "sigma_data": flags.sigma_data,
    }
    unet = without_weights(config, "CHECKPOINT: its network")
    fill(unet, weights, "CHECKPOINT")
    name = "ADM" if adm else "NCSN++" if encoder != "standard" else "DDPM++"
    return EdmCheckpoint(unet, _scheduler(flags), f"as an EDM network ({name}, preconditioning {flags.precond})")


def read_edm2(state: Weights, given: Mapping[str, Any] | None = None) -> EdmCheckpoint:
    """Return the network of the state dictionary of an EDM2 network; RequestError as :func:`read_edm`."""
    flags = build(EdmFlags, dict(given or {}), "FLAGS")
    if flags.precond != "edm":
        raise RequestError("FLAGS.precond", f"is {flags.precond}, but EDM2 networks have edm")
    raw = {name: tensor.float() for name, tensor in state.items()}
    shape = _shapes(raw)
    found = _sides(raw, "conv_res0")
    if shape("out_conv.weight")[0] != 3:
        raise RequestError("CHECKPOINT", "an EDM2 network of latents (edm2-img512): only those of images are read")
    at = [f"{side}x{side}" for side in found.sides]
    config: Config = {
        "_class_name": "Edm2UNet",
        "sample_size": found.sides[0],
        "in_channels": shape("out_conv.weight")[0],
        "out_channels": shape("out_conv.weight")[0],
        "widths": [shape(f"enc.{side}_block0.conv_res1.weight")[0] for side in at],
        "attention": found.attention,
        "num_blocks": found.blocks,
        "noise_channels": shape("emb_noise.weight")[1],
        "emb_channels": shape("emb_noise.weight")[0],
        "num_class_embeds": shape("emb_label.weight")[1] if "emb_label.weight" in raw else None,
        "sigma_data": flags.sigma_data,
    }
    unet = without_weights(config, "CHECKPOINT: its network")
    fill(unet, _folded(raw), "CHECKPOINT")
    return EdmCheckpoint(unet, _scheduler(flags), "as an EDM2 network")


def _folded(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they act: rows of norm 1 (but for a tiny constant), times the gain of their layer."""
    folded = {}
    for name, tensor in raw.items():
        if name.endswith("_gain"):
            continue
        if name.endswith("weight"):
            rows = tensor.double().flatten(1)
            rows = rows / (rows.square().mean(1, keepdim=True).sqrt() + SMALLEST) / math.sqrt(rows.shape[1])
            gain = {"out_conv.weight": "out_gain"}.get(name, name.replace("emb_linear.weight", "emb_gain"))
            if gain != name:
                if gain not in raw:
                    raise RequestError("CHECKPOINT", f"lacks {gain}")
                rows = rows * raw[gain].double()
            tensor = rows.reshape(tensor.shape).float()
        folded[name] = tensor
    return folded


def _scheduler(flags: EdmFlags) -> Config:
    """The sigmas of images in [-1, 1] that the published samplers use."""
    if flags.precond == "vp":
        if flags.sigma_min or flags.sigma_max:
            raise RequestError("FLAGS.sigma_min", "and sigma_max are not of precond vp, whose betas run from 0.1 to 20")
        return {"schedule": "vp_sde", "beta_min": 0.1, "beta_max": 20.0, "prediction_type": "epsilon"}
    name, smallest, largest = ("geometric_ve", 0.02, 100.0) if flags.precond == "ve" else ("edm", 0.002, 80.0)
    return {
        "schedule": name,
        "sigma_min": flags.sigma_min or smallest,
        "sigma_max": flags.sigma_max or largest,
        "prediction_type": "sample",
    }


def _shapes(weights: Weights) -> Shape:
    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise RequestError("CHECKPOINT", f"lacks {name}, which such networks have")
        return weights[name].shape

    return shape


def _sides(weights: Weights, first: str) -> Sides:
    """Return resolutions, blocks and attention of an encoder whose blocks begin with a module called ``first``."""
    pattern = re.compile(rf"enc\.(\d+)x\1_block(\d+)\.{first}\.weight")
    blocks = [(int(found[1]), int(found[2])) for name in weights if (found := pattern.fullmatch(name))]
    sides = sorted({side for side, _ in blocks}, reverse=True)
    if not sides or any(side != sides[0] >> level for level, side in enumerate(sides)):
        raise RequestError(
            "CHECKPOINT", f"has enc.* at resolutions {sides}, each of which must be half of the one before"
        )
    attention = [any(f"enc.{s}x{s}_block0.{n}.weight" in weights for n in ("qkv", "attn_qkv")) for s in sides]
    return Sides(sides, 1 + max(index for _, index in blocks), attention)


def _multiple(width: int, base: int) -> int:
    if width % base:
        raise RequestError("CHECKPOINT", f"has {width} channels, no multiple of its first {base}")
    return width // base


def _taps(weights: dict[str, Tensor]) -> int:
    """Return the length of the filters; those of two taps are taken out of ``weights``: they are means."""
    filters = {name: tensor for name, tensor in weights.items() if name.endswith("resample_filter")}
    lengths = {tensor.shape[-1] for tensor in filters.values()}
    if not lengths:
        if len({name.split("_")[0] for name in weights if name.startswith("enc.")}) > 1:
            raise RequestError("CHECKPOINT", "lacks its buffers (resample_filter): save state_dict(), not parameters")
        return 2
    if lengths == {2} and all(bool((tensor == 0.25).all()) for tensor in filters.values()):
        for name in filters:
            del weights[name]
        return 2
    if lengths != {4}:
        raise RequestError("CHECKPOINT", f"has filters of {sorted(lengths)} taps; allowed: [1, 1] and any of 4")
    return 4

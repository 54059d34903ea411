"""Checkpoints of score_sde (.pth): NCSN++ and DDPM++ of Song et al. 2021, arXiv 2011.13456, appendix H.

They number their modules (``all_modules.17.Conv_0.weight``) in the order in which they run. EDM's networks hold them
exactly, so they are renamed to those. Two kinds are read: variance exploding in continuous time (Fourier features), on
images in [0, 1], and variance preserving (positional features), on images in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.priors.networks.diffusers_folder import Config, fill, without_weights
from ipsolve.priors.networks.edm_checkpoint import EdmCheckpoint
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

Weights = Mapping[str, Tensor]
Positive = Annotated[float, Field(gt=0)]
Modules = list[dict[str, Tensor]]
NAME = re.compile(r"(?:module\.)?all_modules\.(\d+)\.(.+)")  # DataParallel puts module. before it
_PLAIN = {"weight", "bias"}
_COMBINE = {"Conv_0.weight", "Conv_0.bias", "Conv.weight", "Conv.bias"}
_RESIDUAL = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}


@dataclass(frozen=True, config={"extra": "forbid"})
class ScoreSdeFlags:
    """What tensors do not tell: the SDE of positional networks, the size of images, the sigmas (images in [0, 1])."""

    image_size: Annotated[int, Field(ge=1)] | None = None
    sde: Literal["vesde", "vpsde"] | None = None
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    beta_min: Positive = 0.1
    beta_max: Positive = 20.0


def averaged(state: Weights, shadow: list[Tensor]) -> dict[str, Tensor]:
    """Return the state with its exponential moving average, a list in the order of the trained parameters.

    Raises:
        RequestError: the list does not fit.
    """
    trained = [name for name in state if (found := NAME.fullmatch(name)) and found[2] != "W"]
    if [state[name].shape for name in trained] != [tensor.shape for tensor in shadow]:
        raise RequestError("CHECKPOINT", "has EMA weights that do not fit its model; use --weights raw")
    return {**state, **dict(zip(trained, shadow, strict=True))}


def read_score_sde(state: Weights, given: Mapping[str, Any] | None = None) -> EdmCheckpoint:
    """Return the network of the ``model`` of a score_sde checkpoint.

    Args:
        state: its tensors.
        given: ``image_size`` where it is not 32 or 256, ``sde`` where the embedding is positional, ``sigma_min`` and
            ``sigma_max`` where the checkpoint has no table of sigmas.

    Raises:
        RequestError: another network (``ddpm``, ``ncsnv2``), tensors that do not fit, or what is not known of it.
    """
    flags = build(ScoreSdeFlags, dict(given or {}), "FLAGS")
    modules = _modules(state)
    try:
        config = _config(modules, flags)
        names = list(_names(config))
        renamed = [_renamed(module) for module in modules]
    except (KeyError, IndexError, RuntimeError) as error:  # a module that lacks a tensor, or has one of another shape
        raise RequestError("CHECKPOINT", f"is not a whole NCSN++ or DDPM++ of score_sde: {error}") from None
    if len(names) != len(modules):
        raise RequestError(
            "CHECKPOINT",
            f"has {len(modules)} modules with weights where NCSN++ or DDPM++ of its widths have {len(names)}",
        )
    weights = dict[str, Tensor]()
    for name, module in zip(names, renamed, strict=True):
        weights |= {f"{name}.{key}": tensor.float() for key, tensor in module.items()}
    unet = without_weights(config, "CHECKPOINT: its network")
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    filters = [name for name in unet.state_dict() if name.endswith("resample_filter")]
    weights |= {name: torch.outer(taps, taps)[None, None] for name in filters}
    fill(unet, weights, "CHECKPOINT")
    kind = "NCSN++" if config["encoder"] != "standard" else "DDPM++"
    scheduler = _scheduler(state, config, flags)
    return EdmCheckpoint(unet, scheduler, f"as a score_sde network ({kind}, {scheduler['schedule']})")


def _modules(state: Weights) -> Modules:
    """Return the modules that have weights, in their order."""
    modules: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if found := NAME.fullmatch(name):
            modules.setdefault(int(found[1]), {})[found[2]] = tensor
        elif name.removeprefix("module.") != "sigmas":
            raise RequestError("CHECKPOINT", f"holds an unexpected weight, {name}")
    return [modules[index] for index in sorted(modules)]


def _is(module: dict[str, Tensor], kind: Literal["residual", "attention", "resampling", "convolution"]) -> bool:
    match kind:
        case "residual":
            return "Dense_0.weight" in module
        case "attention":
            return "NIN_3.W" in module
        case "resampling":  # a residual block of one width has a convolution beside it only if its resolution changes
            return "Conv_2.weight" in module and len(module["Conv_0.weight"]) == module["Conv_0.weight"].shape[1]
        case _:
            return module.keys() == _PLAIN and module["weight"].ndim == 4


def _config(modules: Modules, flags: ScoreSdeFlags) -> Config:
    fourier = modules[0].keys() == {"W"}
    residual = [index for index, module in enumerate(modules) if _is(module, "residual")]
    resampling = [order for order, index in enumerate(residual) if _is(modules[index], "resampling")]
    if not resampling or len(resampling) % 2 or not _is(modules[2 + fourier], "convolution"):
        raise RequestError(
            "CHECKPOINT", "is no NCSN++ or DDPM++ with residual blocks of type biggan; none else is read"
        )
    levels, blocks = 1 + len(resampling) // 2, resampling[0]
    firsts = [residual[level * (blocks + 1)] for level in range(levels)]
    stem = modules[2 + fourier]["weight"]
    base = len(stem)
    beside = modules[residual[blocks] + 1].keys()  # what follows the first block that halves the resolution
    encoder = "residual" if "Conv2d_0.weight" in beside else "skip" if beside <= _COMBINE else "standard"
    return {
        "_class_name": "EdmUNet",
        "family": "song",
        "sample_size": _size(flags, levels),
        "in_channels": stem.shape[1],
        "out_channels": len(modules[-1].get("weight", stem)),
        "model_channels": base,
        "channel_mult": [len(modules[index]["Conv_0.weight"]) // base for index in firsts],
        "attention": [_is(modules[index + 1], "attention") for index in firsts],
        "num_blocks": blocks,
        "noise_channels": 2 * base if fourier else base,
        "emb_channels": 4 * base,
        "embedding": "fourier" if fourier else "positional",
        "encoder": encoder,
        "decoder": "skip" if sum(_is(module, "convolution") for module in modules) == 1 + levels else "standard",
        "taps": 2 if encoder == "standard" else 4,  # as in all published configurations
        "preconditioning": _preconditioning(fourier, flags),
    }


def _size(flags: ScoreSdeFlags, levels: int) -> int:
    size = flags.image_size or {4: 32, 7: 256}.get(levels)
    if size is None:
        raise RequestError("CHECKPOINT", "does not tell the size of its images; give --flags '--image_size 64'")
    return size


def _preconditioning(fourier: bool, flags: ScoreSdeFlags) -> str:
    if not fourier and flags.sde is None:
        raise RequestError(
            "CHECKPOINT", "has positional features, which do not tell its SDE; give --flags '--sde vpsde'"
        )
    if flags.sde is not None and (flags.sde == "vesde") != fourier:
        raise RequestError("FLAGS.sde", "must be vesde for Fourier features and vpsde for positional ones")
    return "ve" if fourier else "none"


def _names(config: Config) -> Iterator[str]:
    """Yield what the modules are called in an EDM network, in the order of score_sde."""
    at = [
        f"{config['sample_size'] >> level}x{config['sample_size'] >> level}"
        for level in range(len(config["attention"]))
    ]
    last = len(at) - 1
    if config["embedding"] == "fourier":
        yield "map_noise"
    yield from ("map_layer0", "map_layer1", f"enc.{at[0]}_conv")
    for level, side in enumerate(at):
        if level:
            yield f"enc.{side}_down"
            if config["encoder"] != "standard":
                yield f"enc.{side}_aux_{config['encoder']}"
        for index in range(config["num_blocks"]):
            yield from [f"enc.{side}_block{index}"] * (1 + config["attention"][level])
    yield from (f"dec.{at[last]}_in0", f"dec.{at[last]}_in0", f"dec.{at[last]}_in1")
    for level in reversed(range(len(at))):
        side, final = at[level], config["num_blocks"]
        yield from (f"dec.{side}_block{index}" for index in range(final))
        yield from [f"dec.{side}_block{final}"] * (1 + config["attention"][level])
        if config["decoder"] == "skip" or not level:
            yield from (f"dec.{side}_aux_norm", f"dec.{side}_aux_conv")
        if level:
            yield f"dec.{at[level - 1]}_up"


def _renamed(module: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a module by their names in an EDM network."""
    if module.keys() == {"W"}:
        return {"freqs": module["W"]}
    if _is(module, "residual"):
        return {_replaced(name, _RESIDUAL): tensor for name, tensor in module.items()}
    if _is(module, "attention"):
        # q, k, v of a channel are neighbours there; matrices are transposed here
        matrices, biases = ([module[f"NIN_{i}.{k}"] for i in range(3)] for k in ("W", "b"))
        joint = torch.stack([matrix.mT for matrix in matrices], dim=1).flatten(0, 1)
        weights = {"qkv.weight": joint[..., None, None], "qkv.bias": torch.stack(biases, dim=1).flatten()}
        weights |= {"proj.weight": module["NIN_3.W"].mT[..., None, None], "proj.bias": module["NIN_3.b"]}
        return weights | {f"norm2.{k}": module[f"GroupNorm_0.{k}"] for k in ("weight", "bias")}
    return {name.rsplit(".", 1)[-1]: tensor for name, tensor in module.items()}


def _replaced(name: str, names: Mapping[str, str]) -> str:
    part, _, leaf = name.partition(".")
    return f"{names.get(part, part)}.{leaf}"


def _scheduler(state: Weights, config: Config, flags: ScoreSdeFlags) -> Config:
    """The schedule for images in [-1, 1]: sigmas are twice those of images in [0, 1]."""
    if config["preconditioning"] == "none":
        betas = {"beta_min": flags.beta_min, "beta_max": flags.beta_max}
        return {"schedule": "vp_sde", **betas, "prediction_type": "epsilon"}
    table = next((state[name] for name in ("sigmas", "module.sigmas") if name in state), None)
    smallest = flags.sigma_min or (None if table is None else float(table.min()))
    largest = flags.sigma_max or (None if table is None else float(table.max()))
    if smallest is None or largest is None:
        raise RequestError("CHECKPOINT", "has no table of sigmas; give --flags '--sigma_min 0.01 --sigma_max 348'")
    ve = {"sigma_min": 2 * smallest, "sigma_max": 2 * largest}
    return {"schedule": "geometric_ve", **ve, "prediction_type": "sample"}

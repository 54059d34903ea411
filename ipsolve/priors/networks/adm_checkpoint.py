"""Checkpoints of guided diffusion and improved diffusion (.pt): the architecture read off the tensors.

What tensors do not tell (heads and the order of their channels, the size of images, the noise schedule) comes from the
flags a checkpoint was published with: those of openai/guided-diffusion's README and of DPS's configuration, or others
that are given.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.priors.networks.adm import AdmConfig, Count
from ipsolve.priors.networks.diffusers_folder import Config, fill, without_weights
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

Weights = Mapping[str, Tensor]

# flags of training and sampling: they decide nothing of what the network computes
_WITHOUT_EFFECT = re.compile(
    r"dropout|use_fp16|use_checkpoint|model_path|batch_size|num_samples|timestep_respacing|use_ddim|use_kl"
    r"|sigma_small|rescale_learned_sigmas|clip_denoised|classifier_\w+"
)


@dataclass(frozen=True, config={"extra": "forbid"})
class AdmFlags:
    """The flags of ``model_and_diffusion_defaults``; None where tensors tell and nothing is to be compared."""

    image_size: Count
    num_heads: Count = 4
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_new_attention_order: bool = False
    noise_schedule: Literal["linear", "cosine"] = "linear"
    diffusion_steps: Annotated[int, Field(gt=20)] = 1000
    rescale_timesteps: bool = False
    predict_xstart: bool = False
    num_channels: int | None = None
    num_res_blocks: int | None = None
    channel_mult: str | list[float] | None = None
    attention_resolutions: str | int | None = None
    class_cond: bool | None = None
    learn_sigma: bool | None = None
    resblock_updown: bool | None = None
    use_scale_shift_norm: bool | None = None


class Tensors(NamedTuple):
    """What the tensors tell of the architecture."""

    model_channels: int
    channel_mult: tuple[float, ...]
    attention: tuple[bool, ...]
    num_res_blocks: int
    in_channels: int
    out_channels: int
    resblock_updown: bool
    scale_shift: bool
    num_class_embeds: int | None


class AdmCheckpoint(NamedTuple):
    """The network of a checkpoint, the configuration of its noise schedule, and how it was recognised."""

    unet: nn.Module
    scheduler: Config
    recognised: str


_256 = ((1, 1, 2, 2, 4, 4), (8, 16, 32))
# name: (num_channels, num_res_blocks, (channel_mult, halvings with attention), classes), what tensors do not tell
_PUBLISHED: dict[str, tuple[tuple[Any, ...], AdmFlags]] = {
    "ffhq_10m": ((128, 1, (_256[0], (16,)), None), AdmFlags(image_size=256, num_head_channels=64)),
    "256x256_diffusion_uncond or lsun": ((256, 2, _256, None), AdmFlags(image_size=256, num_head_channels=64)),
    "256x256_diffusion": ((256, 2, _256, 1000), AdmFlags(image_size=256, num_head_channels=64)),
    "64x64_diffusion": (
        (192, 3, ((1, 2, 3, 4), (2, 4, 8)), 1000),
        AdmFlags(image_size=64, num_head_channels=64, use_new_attention_order=True, noise_schedule="cosine"),
    ),
    "128x128_diffusion": ((256, 2, ((1, 1, 2, 3, 4), (4, 8, 16)), 1000), AdmFlags(image_size=128, num_heads=4)),
    "512x512_diffusion": (
        (256, 2, ((0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64)), 1000),
        AdmFlags(image_size=512, num_head_channels=64),
    ),
}


def parse_flags(text: str) -> dict[str, Any]:
    """Return flags as a checkpoint's authors publish them: ``--image_size 256 ...``, or a YAML file of them.

    Raises:
        RequestError: no such file, or no pairs of a flag and its value.
    """
    if text.lstrip().startswith("--"):
        try:
            words = [word for part in shlex.split(text) for word in part.split("=", 1)]
        except ValueError as error:
            raise RequestError("FLAGS", str(error)) from None
        if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
            raise RequestError("FLAGS", f"must be pairs such as --image_size 256 (got {text!r})")
        return {k[2:]: yaml.safe_load(v) for k, v in zip(words[::2], words[1::2], strict=True)}
    path = Path(text).expanduser()
    if not path.is_file():
        raise RequestError("FLAGS", f"{text!r} is neither a YAML file nor flags such as --image_size 256")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError("FLAGS", f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise RequestError("FLAGS", f"{path} is not a mapping of flags to values")
    return {str(key): value for key, value in content.items()}


def read_adm(state: Weights, given: Mapping[str, Any] | None = None) -> AdmCheckpoint:
    """Return the network of a guided-diffusion state dictionary.

    Args:
        state: the tensors of the checkpoint.
        given: the flags it was trained with; None: recognised by the tensors, if they are those of a published one.

    Raises:
        RequestError: it is a classifier or an upsampler; tensors are missing, unexpected or of other shapes than the
            architecture has; flags contradict them; without flags, it is none of the published ones.
    """
    tensors = _tensors(state)
    name, flags = _recognise(tensors, given)
    config = _config(tensors, flags)
    unet = without_weights({"_class_name": "AdmUNet", **config}, "CHECKPOINT: its network")
    weights = {key: tensor.float() for key, tensor in state.items()}
    if not flags.use_new_attention_order:
        architecture: AdmConfig = unet.architecture  # type: ignore[assignment]
        for key in [key for key in weights if ".qkv." in key]:
            weights[key] = _by_part(weights[key], architecture.heads(len(weights[key]) // 3))
    fill(unet, weights, "CHECKPOINT")
    return AdmCheckpoint(unet, _scheduler(flags, tensors), name)


def _by_part(rows: Tensor, heads: int) -> Tensor:
    """Return rows of a joint projection ordered q, k, v and by head within; they came by head, and q, k, v within."""
    return rows.reshape(heads, 3, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _tensors(state: Weights) -> Tensors:
    def shape(name: str) -> torch.Size:
        if name not in state:
            raise RequestError("CHECKPOINT", f"lacks {name}, which guided-diffusion networks have")
        return state[name].shape

    base, in_channels = shape("time_embed.0.weight")[1], shape("input_blocks.0.0.weight")[1]
    indices = {int(found[1]) for name in state if (found := re.match(r"output_blocks\.(\d+)\.", name))}
    if not indices:
        raise RequestError("CHECKPOINT", "has input_blocks.* but no output_blocks.*: a classifier, not a denoiser")
    if in_channels == 6:
        raise RequestError("CHECKPOINT", "takes 6 channels: an upsampler that is given a small image, not a prior")
    ups = sorted(
        int(found[1])
        for name in state
        if (found := re.fullmatch(r"output_blocks\.(\d+)\.[12]\.(?:in_layers\.0|conv)\.weight", name))
    )
    levels, rest = len(ups) + 1, len(indices) % (len(ups) + 1)
    stride = len(indices) // levels
    if rest or stride < 2 or ups != [stride * level - 1 for level in range(1, levels)]:
        raise RequestError("CHECKPOINT", f"has {len(indices)} output_blocks for {levels} resolutions: no ADM network")
    firsts = [stride * level + 1 for level in range(levels)]
    widths = [shape(f"input_blocks.{index}.0.in_layers.2.weight")[0] for index in firsts]
    return Tensors(
        model_channels=base,
        channel_mult=tuple(w / base for w in widths),
        attention=tuple(f"input_blocks.{index}.1.qkv.weight" in state for index in firsts),
        num_res_blocks=stride - 1,
        in_channels=in_channels,
        out_channels=shape("out.2.weight")[0],
        resblock_updown=levels == 1 or f"input_blocks.{stride}.0.in_layers.0.weight" in state,
        scale_shift=shape("input_blocks.1.0.emb_layers.1.weight")[0] == 2 * widths[0],
        num_class_embeds=shape("label_emb.weight")[0] if "label_emb.weight" in state else None,
    )


def _recognise(found: Tensors, given: Mapping[str, Any] | None) -> tuple[str, AdmFlags]:
    if given is not None:
        flags = build(AdmFlags, {k: v for k, v in given.items() if not _WITHOUT_EFFECT.fullmatch(k)}, "FLAGS")
        _compare(found, flags)
        return "by the flags given", flags
    halvings = tuple(2**level for level, attends in enumerate(found.attention) if attends)
    key = (found.model_channels, found.num_res_blocks, (found.channel_mult, halvings), found.num_class_embeds)
    for name, (shape, flags) in _PUBLISHED.items():
        if shape == key and found.resblock_updown and found.scale_shift:
            return f"as {name} by its tensors", flags
    raise RequestError(
        "CHECKPOINT",
        f"a guided-diffusion network, but none of the published ones ({', '.join(_PUBLISHED)}): tensors do not tell "
        "heads, image size and noise schedule; give the flags it was trained with: --flags '--image_size 256 ...'",
    )


def _compare(found: Tensors, flags: AdmFlags) -> None:
    """Raise RequestError for a flag that says other than the tensors."""
    size = flags.image_size
    resolutions = sorted(size // 2**level for level, attends in enumerate(found.attention) if attends)
    wanted = sorted(_numbers(flags.attention_resolutions))
    facts = {
        "num_channels": (flags.num_channels, found.model_channels),
        "num_res_blocks": (flags.num_res_blocks, found.num_res_blocks),
        "channel_mult": (_numbers(flags.channel_mult) or None, list(found.channel_mult)),
        # a resolution that the network does not have decides nothing
        "attention_resolutions": (
            [r for r in wanted if r in {size // 2**level for level in range(len(found.attention))}] if wanted else None,
            resolutions,
        ),
        "class_cond": (flags.class_cond, found.num_class_embeds is not None),
        "learn_sigma": (flags.learn_sigma, found.out_channels == 2 * found.in_channels),
        "resblock_updown": (flags.resblock_updown, found.resblock_updown),
        "use_scale_shift_norm": (flags.use_scale_shift_norm, found.scale_shift),
        "num_heads_upsample": (flags.num_heads_upsample, -1),
    }
    for key, (said, is_so) in facts.items():
        if said is not None and said != is_so:
            raise RequestError(f"FLAGS.{key}", f"is {said}, but the tensors of the checkpoint have {is_so}")


def _numbers(value: str | float | list[float] | None) -> list[float]:
    if value is None or isinstance(value, list):
        return value or []
    try:
        return [float(part) for part in str(value).split(",") if part.strip()]
    except ValueError:
        raise RequestError("FLAGS", f"{value!r} is no list of numbers such as 32,16,8") from None


def _config(found: Tensors, flags: AdmFlags) -> Config:
    return {
        **found._asdict(),
        "sample_size": flags.image_size,
        "num_heads": flags.num_heads,
        "num_head_channels": flags.num_head_channels if flags.num_head_channels > 0 else None,
        "time_scale": 1000 / flags.diffusion_steps if flags.rescale_timesteps else 1.0,
    }


def _scheduler(flags: AdmFlags, found: Tensors) -> Config:
    n = flags.diffusion_steps
    config: Config = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": n,
        "prediction_type": "sample" if flags.predict_xstart else "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "leading",
    }
    if flags.noise_schedule == "cosine":
        return {**config, "beta_schedule": "squaredcos_cap_v2"}
    return {**config, "beta_schedule": "linear", "beta_start": 0.1 / n, "beta_end": 20 / n}

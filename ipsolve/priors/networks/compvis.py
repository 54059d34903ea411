"""CompVis latent diffusion checkpoints, read into the networks of diffusers.

Covers unconditional LDMs with a VQ autoencoder (ffhq-ldm-vq-4, celebahq-ldm-vq-4). The architecture is read off the
shapes of the weights; every weight must be accounted for. Names and order of the CompVis modules: Rombach et al. 2022
(arXiv 2112.10752), code of CompVis/latent-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ipsolve.priors.networks.diffusers_folder import Config, fill, without_weights
from ipsolve.priors.networks.ldm_vq4 import SCHEDULER, unet_config, vq_config
from ipsolve.requests.errors import RequestError

Weights = Mapping[str, Tensor]
WeightsKind = Literal["raw", "ema"]

COMPVIS = _UNET = "model.diffusion_model."
_FIRST_STAGE = "first_stage_model."
# the published models have heads of 32 channels; the weights do not tell
_HEAD_CHANNELS = 32
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
_VQ_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


class Checkpoint(NamedTuple):
    """The two networks of a checkpoint, as diffusers has them, and the configuration of its noise schedule."""

    unet: nn.Module
    autoencoder: nn.Module
    scheduler: Config


def read_checkpoint(state: Weights, kind: WeightsKind = "raw") -> Checkpoint:
    """Return the networks of a CompVis state dictionary.

    Args:
        state: the ``state_dict`` of the checkpoint.
        kind: ``raw`` UNet weights (what the codes of ReSample and DAPS run) or their ``ema`` average (what the
            sampling scripts of CompVis, PSLD and DCDP run).

    Raises:
        RequestError: weights are missing or unexpected, or have shapes that no such architecture has.
    """
    raw = _below(state, _UNET)
    first_stage = {name: w for name, w in _below(state, _FIRST_STAGE).items() if not name.startswith("loss.")}
    for found, where in ((raw, _UNET), (first_stage, _FIRST_STAGE)):
        if not found:
            raise RequestError(f"checkpoint: no weights called {where}*; it is not a CompVis latent diffusion model")
    autoencoder_config = _vq_config(first_stage, float(state.get("scale_factor", torch.ones(()))))
    autoencoder = without_weights(autoencoder_config, "checkpoint: its autoencoder")
    levels = len(autoencoder_config["block_out_channels"])
    vq_names = {name: vq_name(name, levels) for name in autoencoder.state_dict()}
    _account(first_stage, set(vq_names.values()), _FIRST_STAGE)
    fill(autoencoder, {new: _linear(new, first_stage[old]) for new, old in vq_names.items()}, "checkpoint: autoencoder")

    latent_size = autoencoder_config["sample_size"] // 2 ** (levels - 1)
    config = _unet_config(raw, latent_size)
    unet = without_weights(config, "checkpoint: its UNet")
    unet_names = {name: unet_name(name, config) for name in unet.state_dict()}
    _account(raw, set(unet_names.values()), _UNET)
    chosen = raw if kind == "raw" else _averaged(state, raw)
    fill(unet, {new: _unet_weight(new, chosen[old]) for new, old in unet_names.items()}, "checkpoint: UNet")
    return Checkpoint(unet, autoencoder, _scheduler(state))


def unet_name(name: str, config: Config) -> str:
    """Return the CompVis name of a UNet2DModel weight; q, k and v share one, ``qkv``."""
    stride = config["layers_per_block"] + 1
    module, leaf = name.rsplit(".", 1)
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", module):
        side, block, part, layer, inner = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if part == "downsamplers":
            return f"input_blocks.{(block + 1) * stride}.0.op.{leaf}"
        if part == "upsamplers":
            attends = config["up_block_types"][block].startswith("Attn")
            return f"output_blocks.{block * stride + stride - 1}.{1 + attends}.conv.{leaf}"
        index = block * stride + layer
        start = f"input_blocks.{index + 1}" if side == "down" else f"output_blocks.{index}"
        return f"{start}.{int(part == 'attentions')}.{_inside(inner)}.{leaf}"
    for new, old in _UNET_TOP.items():
        if module == new:
            return f"{old}.{leaf}"
        if module.startswith(f"{new}."):
            return f"{old}.{_inside(module.removeprefix(f'{new}.'))}.{leaf}"
    raise KeyError(name)


def vq_name(name: str, levels: int) -> str:
    """Return the CompVis name of a VQModel weight; ``levels`` is the number of resolutions."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    rest = re.sub(r"^down_blocks\.", "down.", rest)
    rest = re.sub(r"^up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", rest)
    rest = re.sub(r"^mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", rest)
    if found := re.fullmatch(r"mid_block\.attentions\.0\.(.+)\.(\w+)", rest):
        rest = f"mid.attn_1.{_VQ_ATTENTION[found[1]]}.{found[2]}"
    for new, old in ((".resnets.", ".block."), ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out")):
        rest = rest.replace(new, old)
    return f"{side}." + re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", rest)


def _inside(module: str) -> str:
    if module in ("to_q", "to_k", "to_v"):
        return "qkv"
    return _RESNET.get(module) or _UNET_ATTENTION[module]


def _unet_weight(name: str, weight: Tensor) -> Tensor:
    part = re.search(r"\.to_([qkv])\.", name)
    if part is None:
        return _linear(name, weight)
    # rows of the joint projection are ordered head by head, and q, k, v within a head
    heads = weight.shape[0] // (3 * _HEAD_CHANNELS)
    rows = weight.flatten(1) if weight.ndim > 1 else weight
    return rows.reshape(heads, 3, _HEAD_CHANNELS, *rows.shape[1:])[:, "qkv".index(part[1])].flatten(0, 1).clone()


def _linear(name: str, weight: Tensor) -> Tensor:
    """Attention projections are 1x1 convolutions there and linear layers here."""
    return weight.flatten(1) if re.search(r"\.to_(q|k|v|out\.0)\.weight$", name) else weight


def _below(state: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w.float() for name, w in state.items() if name.startswith(prefix)}


def _averaged(state: Weights, raw: Weights) -> dict[str, Tensor]:
    stored = {name: "model_ema." + f"diffusion_model.{name}".replace(".", "") for name in raw}
    missing = sorted(key for key in stored.values() if key not in state)
    if missing:
        raise RequestError(f"checkpoint: lacks {len(missing)} EMA weights, such as {missing[0]}; use --weights raw")
    return {name: state[key].float() for name, key in stored.items()}


def _account(found: Weights, expected: set[str], prefix: str) -> None:
    for problem, names in (("lacks", expected - found.keys()), ("holds unexpected", found.keys() - expected)):
        if names:
            raise RequestError(f"checkpoint: {problem} {len(names)} weights, the first being {prefix}{min(names)}")


def _shape(weights: Weights, name: str, prefix: str) -> torch.Size:
    if name not in weights:
        raise RequestError(f"checkpoint: lacks {prefix}{name}")
    return weights[name].shape


def _unet_config(weights: Weights, latent_size: int) -> Config:
    widths: list[int] = []
    attention: list[bool] = []
    layers = index = 0
    channels = _shape(weights, "input_blocks.0.0.weight", _UNET)[1]
    while f"input_blocks.{index + 1}.0.in_layers.2.weight" in weights:
        index += 1
        widths.append(weights[f"input_blocks.{index}.0.in_layers.2.weight"].shape[0])
        attention.append(f"input_blocks.{index}.1.qkv.weight" in weights)
        depth = 1
        while f"input_blocks.{index + 1}.0.in_layers.2.weight" in weights:
            index, depth = index + 1, depth + 1
        layers = layers or depth
        if f"input_blocks.{index + 1}.0.op.weight" in weights:
            index += 1
    if not widths:
        raise RequestError(f"checkpoint: lacks {_UNET}input_blocks.1.0.in_layers.2.weight")
    odd = [w for w, attends in zip(widths, attention, strict=True) if attends and w % _HEAD_CHANNELS]
    if odd or any(w % 32 for w in widths):
        raise RequestError(f"checkpoint: UNet widths {widths} are not multiples of 32, as heads and norms need")
    return unet_config(widths, attention, layers, channels, latent_size)


def _vq_config(weights: Weights, scaling_factor: float) -> Config:
    codebook = _shape(weights, "quantize.embedding.weight", _FIRST_STAGE)
    widths: list[int] = []
    while (name := f"encoder.down.{len(widths)}.block.0.conv1.weight") in weights:
        widths.append(weights[name].shape[0])
    if not widths:
        raise RequestError(f"checkpoint: lacks {_FIRST_STAGE}{name}")
    layers = 1
    while f"encoder.down.0.block.{layers}.conv1.weight" in weights:
        layers += 1
    return vq_config(
        widths,
        layers,
        latent_channels=_shape(weights, "encoder.conv_out.weight", _FIRST_STAGE)[0],
        num_vq_embeddings=codebook[0],
        vq_embed_dim=codebook[1],
        mid_attention="encoder.mid.attn_1.q.weight" in weights,
        scaling_factor=scaling_factor,
    )


def _scheduler(state: Weights) -> Config:
    """The published schedule, unless the checkpoint carries other betas: then those."""
    config = dict(SCHEDULER)
    betas = state.get("betas")
    if betas is None:
        return config
    n = config["num_train_timesteps"]
    published = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, n, dtype=torch.float64) ** 2
    if len(betas) == n and torch.allclose(betas.double(), published, rtol=1e-5):
        return config
    for key in ("beta_start", "beta_end", "beta_schedule"):
        del config[key]
    return {**config, "num_train_timesteps": len(betas), "trained_betas": betas.double().tolist()}

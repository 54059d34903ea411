"""The layout of Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206): its transformer, and what that is told.

The transformer is told tokens, those of two CLIP encoders side by side and, after them, those of T5, and the pooled
projections of both CLIP encoders. Without T5, which a folder may lack, its tokens are zeros, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from ipsolve.priors.networks.diffusers_folder import network_config, read_config, setting
from ipsolve.priors.networks.text_encoders import PROJECTED, T5, Combine, Embedding, TextEncoder
from ipsolve.priors.networks.unet import unet_state_shape
from ipsolve.requests.errors import RequestError

COMPONENT, CLASS = "transformer", "SD3Transformer2DModel"
T5_LENGTH = 256  # tokens that the pipeline of diffusers pads a text to


def encoders_of(folder: Path, variant: str | None) -> list[TextEncoder]:
    """Return the two CLIP encoders of a folder and, where it has one, T5.

    Raises:
        RequestError: one is missing: T5 too, where ``model_index.json`` says that there is one.
    """
    encoders = [TextEncoder.of(folder, number, variant, (PROJECTED,)) for number in (1, 2)]
    first, second = (encoder.longest for encoder in encoders)
    if first != second:
        raise RequestError(f"prior.path: {folder}: tokenizer gives {first} tokens, tokenizer_2 {second}")
    if (folder / "text_encoder_3").is_dir():
        return [*encoders, TextEncoder.of(folder, 3, variant, (T5,), T5_LENGTH)]
    index = read_config(folder, "", "model_index.json") if (folder / "model_index.json").is_file() else {}
    if any(index.get("text_encoder_3") or ()):
        raise RequestError(
            f"prior.path: {folder} has no text_encoder_3/, which its model_index.json names; "
            "to do without T5 write [null, null] there"
        )
    return encoders


def combine_of(folder: Path) -> Combine:
    """Return what the transformer of a folder takes of the outputs of the encoders."""
    width = int(setting(network_config(folder, COMPONENT, (CLASS,)), "joint_attention_dim"))

    def combine(outputs: Sequence[Any]) -> Embedding:
        clips, others = outputs[:2], outputs[2:]
        tokens = torch.cat([out.hidden_states[-2] for out in clips], -1)
        tokens = pad(tokens, (0, width - tokens.shape[-1]))
        after = others[0].last_hidden_state if others else tokens.new_zeros(len(tokens), T5_LENGTH, width)
        return Embedding(torch.cat([tokens, after], 1), torch.cat([out.text_embeds for out in clips], -1))

    return combine


def check_conditions(folder: Path, encoders: Sequence[TextEncoder]) -> None:
    """Raise RequestError unless the transformer takes what the encoders give."""
    config = network_config(folder, COMPONENT, (CLASS,))
    where = f"prior.path: {folder / COMPONENT / 'config.json'}"
    width, pooled = (int(setting(config, key)) for key in ("joint_attention_dim", "pooled_projection_dim"))
    clips = sum(int(encoder.config.hidden_size) for encoder in encoders[:2])
    if clips > width:
        raise RequestError(f"{where}: joint_attention_dim is {width}, the CLIP encoders give {clips}")
    if len(encoders) > 2 and (given := int(encoders[2].config.hidden_size)) != width:
        raise RequestError(f"{where}: joint_attention_dim is {width}, T5 gives {given}")
    if (given := sum(int(encoder.config.projection_dim) for encoder in encoders[:2])) != pooled:
        raise RequestError(f"{where}: pooled_projection_dim is {pooled}, the CLIP encoders give {given}")
    _, height, columns = unet_state_shape(folder, (CLASS,), COMPONENT)
    patch, most = int(setting(config, "patch_size")), int(setting(config, "pos_embed_max_size"))
    if height % patch or max(height, columns) // patch > most:
        raise RequestError(f"{where}: sample_size is {height}; allowed: multiples of {patch} up to {patch * most}")


def tokens_of(folder: Path) -> int:
    """Return how many patches of an image the transformer reads."""
    _, height, width = unet_state_shape(folder, (CLASS,), COMPONENT)
    patch = int(setting(network_config(folder, COMPONENT, (CLASS,)), "patch_size"))
    return (height // patch) * (width // patch)

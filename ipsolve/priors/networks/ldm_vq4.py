"""The exact architecture of LDM-VQ-4 (ffhq-ldm-vq-4, celebahq-ldm-vq-4), 256 x 256 images, 3 x 64 x 64 latents.

Source: Rombach et al. 2022, arXiv 2112.10752, and the published configuration files of CompVis/latent-diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from ipsolve.priors.networks.diffusers_folder import Config, without_weights
from ipsolve.priors.networks.latent import LatentPrior
from ipsolve.priors.networks.unet import DEFAULT_EXECUTION, Execution
from ipsolve.priors.schedules import scaled_linear

SCHEDULER: Config = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,  # with steps_offset 1, the grid of the CompVis sampler
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def unet_config(
    block_out_channels: Sequence[int] = (224, 448, 672, 896),
    attention: Sequence[bool] = (False, True, True, True),
    layers_per_block: int = 2,
    channels: int = 3,
    sample_size: int = 64,
    head_channels: int = 32,
) -> Config:
    """Return the UNet2DModel configuration of a CompVis UNet; the defaults are LDM-VQ-4.

    Args:
        block_out_channels: width of each resolution, finest first.
        attention: whether each resolution has attention.
        layers_per_block: residual blocks per resolution on the way down.
        channels: of the latents.
        sample_size: of the latents, pixels.
        head_channels: width of an attention head.
    """
    return {
        "_class_name": "UNet2DModel",
        "sample_size": sample_size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(block_out_channels),
        "layers_per_block": layers_per_block,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "attention_head_dim": head_channels,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,  # [cos, sin]
        "freq_shift": 0,
        "center_input_sample": False,
    }


def vq_config(
    block_out_channels: Sequence[int] = (128, 256, 512),
    layers_per_block: int = 2,
    latent_channels: int = 3,
    num_vq_embeddings: int = 8192,
    vq_embed_dim: int = 3,
    sample_size: int = 256,
    mid_attention: bool = True,
    scaling_factor: float = 1.0,
) -> Config:
    """Return the VQModel configuration of a CompVis VQ autoencoder; the defaults are VQ-f4.

    ``scaling_factor`` is 1: LDM-VQ-4 does not rescale its latents, whatever the class default of VQModel says.
    """
    levels = len(block_out_channels)
    return {
        "_class_name": "VQModel",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": list(block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers_per_block,
        "latent_channels": latent_channels,
        "num_vq_embeddings": num_vq_embeddings,
        "vq_embed_dim": vq_embed_dim,
        "sample_size": sample_size,
        "norm_num_groups": 32,
        "norm_type": "group",
        "act_fn": "silu",
        "mid_block_add_attention": mid_attention,
        "force_upcast": False,
        "scaling_factor": scaling_factor,
    }


def random_init(seed: int = 0, execution: Execution = DEFAULT_EXECUTION, *, quantize: bool = True) -> LatentPrior:
    """Return LDM-VQ-4 with random weights, a function of ``seed``: 274 M + 55 M parameters, for benchmarks.

    Weights are N(0, 1 / fan_in) and norms the identity, so that activations neither vanish nor overflow.
    """
    generator = torch.Generator().manual_seed(seed)
    unet, autoencoder = without_weights(unet_config(), "unet"), without_weights(vq_config(), "vqvae")
    for network in (unet, autoencoder):
        _randomise(network, generator)
    schedule = scaled_linear(0.0015, 0.0195)
    return LatentPrior(unet, autoencoder, schedule, "epsilon", execution, quantize=quantize)


def _randomise(network: nn.Module, generator: torch.Generator) -> None:
    network.to_empty(device="cpu")
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            weights = cast(Any, parameter).data
            if isinstance(module, nn.GroupNorm) or name == "bias":
                weights.fill_(float(isinstance(module, nn.GroupNorm) and name == "weight"))
            else:
                weights.normal_(0.0, weights[0].numel() ** -0.5, generator=generator)

"""The finished prior: whitened latents, half precision, diffusers layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from diffusers import AutoencoderKL, UNet2DModel
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from ray_jobs.training.autoencoder import to_images
from ray_jobs.training.config import UNet
from ray_jobs.training.networks import FACTOR, noise_scheduler
from ray_jobs.training.shards import Shards, write_array

_WHITENING_IMAGES = 4096
_BATCH = 64


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Rescale the latents of ``vae`` in place: encode gives (z - mean) / std, decode takes that.

    Both 1 x 1 convolutions around the latents take it up, so that scaling_factor is 1 and no consumer needs to know.

    Args:
        vae: its quant_conv gives means, then log-variances.
        mean, std: (C,), of each latent channel over the data.
    """
    count = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += (after.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    after.weight *= std.view(1, -1, 1, 1)
    before.weight[:count] /= std.view(-1, 1, 1, 1)
    before.bias[:count] = (before.bias[:count] - mean) / std
    before.bias[count:] -= 2 * std.log()


def export_autoencoder(trained: Path, images: Path, folder: Path) -> Path:
    """Write the whitened autoencoder of ``trained`` to ``folder`` in fp16; statistics are over training images."""
    vae = AutoencoderKL.from_pretrained(trained, use_safetensors=True)
    shards = Shards(images)
    latents = encode(vae, shards[np.arange(min(len(shards), _WHITENING_IMAGES))])
    fold_whitening(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    return save_half(vae, folder)


def save_half(network: Any, folder: Path) -> Path:
    """Write a network as fp16 safetensors; the folder appears when it is complete."""
    unfinished = folder.with_name(f"{folder.name}.partial")
    network.half().save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def export_unet(trained: Path, prior: Path, spec: UNet) -> None:
    """Write the UNet of ``trained`` and its schedule into the folder of the prior."""
    noise_scheduler(spec).save_pretrained(prior / "scheduler")
    save_half(UNet2DModel.from_pretrained(trained, use_safetensors=True), prior / "unet")


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Return posterior means, (B, C, h, w) float32 on the CPU, of uint8 images (B, H, W, 3)."""
    device = vae.device
    return torch.cat(
        [vae.encode(to_images(x).to(device)).latent_dist.mean.float().cpu() for x in torch.split(pixels, _BATCH)]
    )


def encode_shards(vae: Path | None, images: Path, folder: Path, gpus_per_task: float = 0) -> Path:
    """Write the states of a folder of image shards as fp16 shards, by Ray tasks; what exists is kept.

    States are latents of ``vae``; without one they are the pixels of 4 x 4 patches as channels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = _encode_shard.options(num_gpus=gpus_per_task)
    paths = sorted(images.glob("*.npy"))
    ray.get([task.remote(vae, path, folder / path.name) for path in paths if not (folder / path.name).exists()])
    return folder


@ray.remote(num_cpus=1, max_retries=3)
def _encode_shard(vae: Path | None, images: Path, latents: Path) -> None:
    torch.set_num_threads(1)
    if vae is None:
        write_array(latents, pixel_unshuffle(to_images(torch.from_numpy(np.load(images))), FACTOR).half().numpy())
        return
    network = AutoencoderKL.from_pretrained(vae, use_safetensors=True)
    network.to("cuda" if ray.get_gpu_ids() else "cpu")
    write_array(latents, encode(network, torch.from_numpy(np.load(images))).half().numpy())

"""Samples of a prior in training, and sheets to look at them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ipsolve.conventions import to_uint8
from ipsolve.priors.networks.unet import UNetPrior

_BATCH = 64
CALLS = (1, 2, 4)  # of a consistency prior, for the figures of its quality


@torch.no_grad()
def sample_states(unet: Any, scheduler: DDIMScheduler, count: int, steps: int, seed: int) -> Tensor:
    """Return ``count`` samples, (count, C, h, w), by deterministic DDIM (Song et al. 2021, arXiv 2010.02502)."""
    device = next(unet.parameters()).device
    shape = (count, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    samples = []
    for z in torch.split(start.to(device), _BATCH):
        scheduler.set_timesteps(steps)
        for time in scheduler.timesteps:
            z = scheduler.step(unet(z, time).sample, time, z, eta=0.0).prev_sample
        samples.append(z)
    return torch.cat(samples)


@torch.no_grad()
def flow_states(prior: UNetPrior, shape: tuple[int, ...], count: int, steps: int, seed: int) -> Tensor:
    """Return ``count`` samples of a flow, (count, *shape), by Euler's rule on the levels of its schedule."""
    levels = prior.schedule.levels(steps)
    start = levels[0].sigma * torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
    samples = []
    for x in torch.split(start.to(prior.execution.device), _BATCH):
        for t, s in pairwise(levels):
            x = x + (s.sigma - t.sigma) / t.sigma * (x - prior.denoise(x, t))
        samples.append(x)
    return torch.cat(samples)


@torch.no_grad()
def consistency_states(prior: UNetPrior, shape: tuple[int, ...], count: int, calls: int, seed: int) -> Tensor:
    """Return ``count`` samples of a consistency prior, (count, *shape), by so many calls.

    One maps noise to a state; each further one noises what the last returned, to a lower level, and maps that (Song et
    al. 2023, arXiv 2303.01469, Algorithm 1).
    """
    draws, device = torch.Generator().manual_seed(seed), prior.execution.device
    levels = [prior.schedule.thousandth(1000 - 1000 * call // calls) for call in range(calls)]
    states = torch.zeros(count, *shape, device=device)
    for t in levels:
        noise = torch.randn(count, *shape, generator=draws).to(device)
        states = prior.denoise(t.alpha * states + t.sigma * noise, t)
    return states


def contact_sheet(images: Tensor, columns: int) -> Image.Image:
    """Return images (B, 3, H, W) in [-1, 1] on one sheet, row by row."""
    grid = make_grid(to_uint8(images.cpu()), nrow=columns, padding=2, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())

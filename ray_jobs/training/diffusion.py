"""Stage 2: the denoiser, on the autoencoder's latents or on patches of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from diffusers import AutoencoderKL, UNet2DModel
from ray.train.torch import prepare_model
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from ray_jobs.training.config import TrainingConfig
from ray_jobs.training.loop import Stage, Stateful, autocast, generator, prepare_worker, run
from ray_jobs.training.networks import FACTOR, new_unet, noise_scheduler
from ray_jobs.training.optimisation import is_hidden_matrix, learning_rate_factor, moving_average
from ray_jobs.training.sampling import contact_sheet, sample_states
from ray_jobs.training.shards import Shards, batch_rows
from ray_jobs.training.tracking import Tracker

_EVAL_BATCH = 64
_SHEET_IMAGES = 16
_SHEET_STEPS = 50


class DenoisingLoss(nn.Module):
    """Mean squared error of what the network predicts.

    That of epsilon is weighted min(gamma / SNR, 1) (Hang et al. 2023, arXiv 2303.09556), that of v = alpha noise -
    sigma z is not (Salimans & Ho 2022, arXiv 2202.00512).
    """

    alphas_cumprod: Tensor

    def __init__(self, unet: UNet2DModel, config: TrainingConfig, device: torch.device) -> None:
        super().__init__()
        self.unet, self.config, self.device = unet, config, device
        self.register_buffer("alphas_cumprod", noise_scheduler(config.unet).alphas_cumprod, persistent=False)

    def noisy(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return z_t = alpha_t z + sigma_t noise for latents (B, C, h, w) and times (B,)."""
        cumulative = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return cumulative.sqrt() * z + (1 - cumulative).sqrt() * noise

    def errors(self, unet: nn.Module, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of epsilon, or of v, of each state, (B,)."""
        z_t = self.noisy(z, t, noise).contiguous(memory_format=torch.channels_last)
        with autocast(self.config.compute, self.device):
            predicted = unet(z_t, t).sample
        target = self.noisy(noise, t, -z) if self.config.unet.prediction == "v_prediction" else noise
        errors: Tensor = (predicted.float() - target).square().mean((1, 2, 3))
        return errors

    def forward(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        errors = self.errors(self.unet, z, t, noise)
        if self.config.unet.prediction == "v_prediction":
            return errors.mean()
        cumulative = self.alphas_cumprod[t]
        weight = (self.config.unet.snr_gamma * (1 - cumulative) / cumulative).clamp(max=1)
        return (weight * errors).mean()


class DiffusionStage(Stage):
    name = "unet"

    def __init__(self, config: TrainingConfig, train: Shards, val: Shards, vae: Path | None) -> None:
        spec = config.unet
        context = ray.train.get_context()
        self.config, self.train = config, train
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.batch = spec.batch_size_per_worker
        self.images_per_step = self.batch * self.world
        self.steps, self.eval_every, self.checkpoint_every = spec.steps, spec.eval_every, spec.checkpoint_every
        self.device = prepare_worker(config.compute)

        torch.manual_seed(config.seed)
        self.unet = (
            UNet2DModel.from_pretrained(spec.init_from, use_safetensors=True) if spec.init_from else new_unet(config)
        )
        self.loss = DenoisingLoss(self.unet, config, self.device).to(self.device)
        self.optimisers = self._optimisers()
        self.average = moving_average(self.unet, spec.ema_decay)
        self.parallel = prepare_model(self.loss)

        self.val = val[np.arange(min(len(val), spec.eval_images))].float().to(self.device)
        self.vae_folder = vae

    def _optimisers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        spec = self.config.unet
        named = list(self.unet.named_parameters())
        if spec.optimiser == "adamw":
            weights = [weight for _, weight in named]
            return [(torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-3), spec.learning_rate)]
        from ray_jobs.training.muon import MatrixMuon  # torch has Muon since 2.9

        hidden = [weight for name, weight in named if is_hidden_matrix(name, weight)]
        others = [weight for name, weight in named if not is_hidden_matrix(name, weight)]
        return [
            (MatrixMuon(hidden, spec.learning_rate, spec.weight_decay), spec.learning_rate),
            (torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=1e-3), spec.adamw_learning_rate),
        ]

    def train_step(self, step: int) -> dict[str, float]:
        spec = self.config.unet
        factor = learning_rate_factor(step, self.steps, spec.warmup_steps, spec.constant_share)
        rows = batch_rows(step, self.images_per_step, len(self.train), self.config.seed)
        z = self.train[rows[self.rank :: self.world]].float().to(self.device)
        draws = generator(self.device, self.config.seed, self.name, step, self.rank)
        # one time in each of as many equal intervals as there are images in the global batch
        places = torch.arange(self.batch, device=self.device) * self.world + self.rank
        shift = torch.rand(self.batch, generator=draws, device=self.device)
        times = ((places + shift) * len(self.loss.alphas_cumprod) / self.images_per_step).long()
        noise = torch.randn(z.shape, generator=draws, device=self.device)
        for optimiser, rate in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.zero_grad(set_to_none=True)
        loss = self.parallel(z, times.clamp(max=len(self.loss.alphas_cumprod) - 1), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for optimiser, _ in self.optimisers:
            optimiser.step()
        self.average.update_parameters(self.unet)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def evaluate(self, step: int, tracker: Tracker) -> dict[str, float]:
        quarters = held_out_errors(self.loss, self.average.module, self.val).reshape(-1).tensor_split(4)
        name = "v_mse" if self.config.unet.prediction == "v_prediction" else "eps_mse"
        figures = {f"{name}_q{quarter}": float(errors.mean()) for quarter, errors in enumerate(quarters, 1)}
        figures = {name: float(torch.cat(quarters).mean()), **figures}
        if step and (step % self.config.unet.samples_every == 0 or step == self.steps):
            self._draw_samples(step, tracker)
        return figures

    def _draw_samples(self, step: int, tracker: Tracker) -> None:
        scheduler = noise_scheduler(self.config.unet)
        states = sample_states(self.average.module, scheduler, _SHEET_IMAGES, _SHEET_STEPS, self.config.seed)
        if self.vae_folder is None:
            images = pixel_shuffle(states, FACTOR)
        else:
            images = (
                AutoencoderKL.from_pretrained(self.vae_folder, use_safetensors=True)
                .to(self.device)
                .decode(states)
                .sample
            )
        sheet = contact_sheet(images, columns=8)
        path = self.config.folder / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        tracker.artifact(path, "samples")

    def stateful(self) -> dict[str, Stateful]:
        optimisers = {f"optimiser{number}": optimiser for number, (optimiser, _) in enumerate(self.optimisers)}
        return {"unet": self.unet, "average": self.average, **optimisers}

    def export(self, folder: Path) -> None:
        network: Any = self.average.module
        network.save_pretrained(folder)


@torch.no_grad()
def held_out_errors(loss: DenoisingLoss, unet: nn.Module, latents: Tensor) -> Tensor:
    """Return the error of the prediction of each state, (N,), the n-th of N at time 1000 n / N with a fixed noise.

    So a quarter of the result is a quarter of the noise levels, from the least noisy.
    """
    count = len(latents)
    times = torch.arange(count, device=latents.device) * len(loss.alphas_cumprod) // count
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5)).to(latents.device)
    parts = zip(
        torch.split(latents, _EVAL_BATCH), torch.split(times, _EVAL_BATCH), torch.split(noise, _EVAL_BATCH), strict=True
    )
    return torch.cat([loss.errors(unet, z, t, n) for z, t, n in parts])


def train_unet(job: dict[str, Any]) -> None:
    """Be one Ray Train worker of this stage. ``job``: ``config``, ``tracker``, folders ``train``, ``val``, ``vae``."""
    config, first = job["config"], ray.train.get_context().get_world_rank() == 0
    stage = DiffusionStage(config, Shards(job["train"]), Shards(job["val"]), job["vae"])
    run(stage, Tracker.join(job["tracker"], first), config.folder)

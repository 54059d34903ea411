"""Stage 1: the autoencoder."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from diffusers import AutoencoderKL
from ray.train.torch import prepare_model
from torch import Tensor, nn

from ipsolve.conventions import from_uint8
from ray_jobs.training.config import TrainingConfig
from ray_jobs.training.linear_code import PatchCode, initialise_encoder
from ray_jobs.training.loop import Stage, Stateful, autocast, generator, prepare_worker, run
from ray_jobs.training.networks import new_autoencoder
from ray_jobs.training.optimisation import learning_rate_factor, moving_average
from ray_jobs.training.shards import Shards, batch_rows
from ray_jobs.training.tracking import Tracker

_ENCODER_SHARE = 0.5  # of the decoder's learning rate
_ENCODER_WARMUP = 100  # steps from the first joint one
_PCA_IMAGES = 2000
_EVAL_BATCH = 64


class ReconstructionLoss(nn.Module):
    """L1 + 2 MSE + 0.25 gradient-L1 (+ KL weight times the mean KL per latent number, once the encoder learns)."""

    def __init__(self, vae: AutoencoderKL, code: PatchCode, config: TrainingConfig, device: torch.device) -> None:
        super().__init__()
        self.vae, self.code, self.config, self.device = vae, code, config, device
        self.joint = False

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss, reconstruction part of it) for images (B, 3, H, W) and noise of the latents' shape."""
        spec = self.config.autoencoder
        kl = x.new_zeros(())
        if self.joint:
            with autocast(self.config.compute, self.device):
                posterior = self.vae.encode(x).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float().clamp(-12, 4)
            z = mean + (0.5 * log_variance).exp() * noise
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        else:
            z = self.code(x) + spec.code_noise_std * noise
        with autocast(self.config.compute, self.device):
            y = self.vae.decode(z).sample
        reconstruction = _reconstruction_loss(y.float() - x)
        return reconstruction + spec.kl_weight * kl, reconstruction.detach()


def _reconstruction_loss(error: Tensor) -> Tensor:
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.25 * slopes


class AutoencoderStage(Stage):
    name = "vae"

    def __init__(self, config: TrainingConfig, train: Shards, val: Shards) -> None:
        spec = config.autoencoder
        context = ray.train.get_context()
        self.config, self.train, self.rank = config, train, context.get_world_rank()
        self.batch = spec.batch_size_per_worker
        self.images_per_step = self.batch * context.get_world_size()
        self.steps = spec.decoder_steps + spec.joint_steps
        self.eval_every, self.checkpoint_every = spec.eval_every, spec.checkpoint_every
        self.device = prepare_worker(config.compute)

        torch.manual_seed(config.seed)
        fitted = train[np.arange(min(len(train), _PCA_IMAGES))]
        code = PatchCode.fit(to_images(fitted), spec.latent_channels)
        self.vae = new_autoencoder(config)
        initialise_encoder(self.vae, code)
        self.loss = ReconstructionLoss(self.vae, code, config, self.device).to(self.device)
        self.encoder = [*self.vae.encoder.parameters(), *self.vae.quant_conv.parameters()]
        self.decoder = [*self.vae.decoder.parameters(), *self.vae.post_quant_conv.parameters()]
        self.optimiser = torch.optim.AdamW(
            [{"params": self.decoder}, {"params": self.encoder}],
            lr=spec.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
        )
        self.average = moving_average(self.vae, spec.ema_decay)
        self.val = to_images(val[np.arange(min(len(val), spec.eval_images))]).to(self.device)
        self.parallel: nn.Module | None = None

    def _enter(self, joint: bool) -> nn.Module:
        """Return the parallel loss of a phase; its gradient buckets hold exactly the weights that learn in it."""
        if self.parallel is None or self.loss.joint != joint:
            self.parallel = None
            self.loss.joint = joint
            for weight in self.encoder:
                weight.requires_grad_(joint)
            self.parallel = prepare_model(self.loss)
        return self.parallel

    def train_step(self, step: int) -> dict[str, float]:
        spec = self.config.autoencoder
        joint = step >= spec.decoder_steps
        parallel = self._enter(joint)
        rate = spec.learning_rate * learning_rate_factor(step, self.steps, spec.warmup_steps, spec.constant_share)
        encoder_warmup = min(1.0, (step - spec.decoder_steps + 1) / _ENCODER_WARMUP) if joint else 0.0
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.param_groups[1]["lr"] = rate * _ENCODER_SHARE * encoder_warmup

        rows = batch_rows(step, self.images_per_step, len(self.train), self.config.seed)
        x = to_images(self.train[rows[self.rank :: self.images_per_step // self.batch]]).to(self.device)
        draws = generator(self.device, self.config.seed, self.name, step, self.rank)
        side = self.config.data.size // 4
        noise = torch.randn(len(x), spec.latent_channels, side, side, generator=draws, device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        loss, reconstruction = parallel(x, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(itertools.chain(self.encoder, self.decoder), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.vae)
        return {"loss": float(loss.detach()), "reconstruction": float(reconstruction)}

    @torch.no_grad()
    def evaluate(self, step: int, tracker: Tracker) -> dict[str, float]:
        vae: Any = self.average.module
        learned = step > self.config.autoencoder.decoder_steps
        values = []
        for x in torch.split(self.val, _EVAL_BATCH):
            z = vae.encode(x).latent_dist.mean if learned else self.loss.code(x)
            values.append(psnr(vae.decode(z).sample, x))
        return {"psnr": float(torch.cat(values).mean())}

    def stateful(self) -> dict[str, Stateful]:
        return {"vae": self.vae, "average": self.average, "optimiser": self.optimiser}

    def export(self, folder: Path) -> None:
        network: Any = self.average.module
        network.save_pretrained(folder)


def to_images(pixels: Tensor) -> Tensor:
    """Map uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return from_uint8(pixels.permute(0, 3, 1, 2)).contiguous()


def psnr(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Return the PSNR of each image in dB, (B,): both in [-1, 1], the reconstruction clipped to it."""
    return -10 * ((reconstruction.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3)).log10()


def train_autoencoder(job: dict[str, Any]) -> None:
    """Be one Ray Train worker of this stage. ``job``: ``config``, folders ``train`` and ``val``, ``tracker``."""
    config, first = job["config"], ray.train.get_context().get_world_rank() == 0
    stage = AutoencoderStage(config, Shards(job["train"]), Shards(job["val"]))
    run(stage, Tracker.join(job["tracker"], first), config.folder)

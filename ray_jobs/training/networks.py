"""The two networks and the noise schedule, in diffusers' classes."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel

from ray_jobs.training.config import TrainingConfig

FACTOR = 4  # pixels per latent position along each axis


def new_autoencoder(config: TrainingConfig) -> AutoencoderKL:
    """Return an AutoencoderKL with random weights."""
    spec = config.autoencoder
    levels = len(spec.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=spec.channels,
        layers_per_block=1,
        latent_channels=spec.latent_channels,
        norm_num_groups=spec.norm_groups,
        sample_size=config.data.size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def new_unet(config: TrainingConfig) -> UNet2DModel:
    """Return a UNet2DModel with random weights."""
    spec = config.unet
    return UNet2DModel(
        sample_size=config.data.size // FACTOR,
        in_channels=config.autoencoder.latent_channels,
        out_channels=config.autoencoder.latent_channels,
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in spec.attention),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(spec.attention)),
        block_out_channels=spec.channels,
        layers_per_block=spec.layers_per_block,
        attention_head_dim=spec.attention_head_dim,
        norm_num_groups=spec.norm_groups,
    )


def noise_scheduler() -> DDIMScheduler:
    """Return the schedule of latent diffusion (Rombach et al. 2022): betas linear in their square root, 1000 times."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )

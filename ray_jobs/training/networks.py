"""The two networks and the noise schedule, in diffusers' classes."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel

from ray_jobs.training.config import TrainingConfig, UNet

FACTOR = 4  # pixels per position of a state along each axis: of a latent, or of a patch


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
    channels = 3 * FACTOR**2 if config.space == "pixel" else config.autoencoder.latent_channels
    return UNet2DModel(
        sample_size=config.data.size // FACTOR,
        in_channels=channels,
        out_channels=channels,
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in spec.attention),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(spec.attention)),
        block_out_channels=spec.channels,
        layers_per_block=spec.layers_per_block,
        attention_head_dim=spec.attention_head_dim,
        norm_num_groups=spec.norm_groups,
    )


def noise_scheduler(spec: UNet) -> DDIMScheduler:
    """Return the noise schedule and prediction type that a UNet is trained with, 1000 times.

    That of latent diffusion (Rombach et al. 2022): betas linear in their square root, ending at its first entry; or
    that of DDPM (Ho et al. 2020, arXiv 2006.11239): betas linear, ending at the clean image.
    """
    betas = {
        "latent_diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        "ddpm": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    }[spec.schedule]
    clean = spec.schedule == "ddpm"
    return DDIMScheduler(
        **betas,
        clip_sample=False,
        set_alpha_to_one=clean,
        steps_offset=0 if clean else 1,
        prediction_type=spec.prediction,
    )

"""What the training job can be told, with types, ranges and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ipsolve.priors.networks.hub import PriorPath
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build, unknown_key
from ipsolve.runs.config import RunName, Seed, read_mapping

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[tuple[Count, ...], Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Images to train on. ``train`` and ``val`` are sources as in ``ipsolve.datasets.open_source``."""

    train: str = "portraits:train"
    val: str = "portraits:val"
    size: Annotated[int, Field(ge=8, multiple_of=4)] = 64
    num_train: Count = 72_000
    num_val: Count = 1024
    shard_size: Count = 2000


class Autoencoder(Section):
    """AutoencoderKL with factor 4: first its decoder on a fixed linear code, then both halves.

    ``init_from``: a folder ``vae`` (or a prior that holds one) to take instead of training.
    """

    init_from: str | None = None
    channels: tuple[Count, Count, Count] = (16, 32, 64)
    latent_channels: Annotated[int, Field(ge=1, le=48)] = 8
    norm_groups: Count = 8
    decoder_steps: Steps = 1000
    joint_steps: Steps = 3000
    batch_size_per_worker: Count = 8
    learning_rate: Rate = 3e-3
    warmup_steps: Steps = 60
    constant_share: Share = 0.35
    code_noise_std: Annotated[float, Field(ge=0)] = 0.05
    kl_weight: Annotated[float, Field(ge=0)] = 3e-4
    ema_decay: Share = 0.998
    eval_every: Count = 200
    eval_images: Count = 128
    checkpoint_every: Count = 500


class UNet(Section):
    """UNet2DModel on the whitened latents, or on images cut into 4 x 4 patches (``space``).

    ``schedule``: betas of latent diffusion (Rombach et al. 2022) or of DDPM (Ho et al. 2020). ``snr_gamma``: weight
    min(gamma / SNR, 1) of the error of epsilon; the error of v is not weighted.
    """

    init_from: str | None = None
    channels: Channels = (64, 128, 192)
    attention: tuple[bool, ...] = (False, True, True)
    layers_per_block: Count = 1
    attention_head_dim: Count = 32
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    schedule: Literal["latent_diffusion", "ddpm"] = "latent_diffusion"
    norm_groups: Count = 16
    steps: Steps = 2600
    batch_size_per_worker: Count = 24
    optimiser: Literal["muon", "adamw"] = "muon"
    learning_rate: Rate = 2e-3
    adamw_learning_rate: Rate = 1.5e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Steps = 100
    constant_share: Share = 0.2
    snr_gamma: Rate = 5.0
    ema_decay: Share = 0.999
    eval_every: Count = 100
    eval_images: Count = 512
    samples_every: Count = 500
    checkpoint_every: Count = 200


class Distillation(Section):
    """A consistency function out of the denoiser of a finished prior, in place of a UNet of one's own.

    The defaults are the improved form (Song & Dhariwal 2024, arXiv 2310.14189) on the flow of the teacher. The original
    (Song et al. 2023, arXiv 2303.01469) is ``metric: squared, target_decay: 0.95, levels: uniform, weighted: false,
    intervals: [18, 18]``; ``solver: none`` is consistency training, which looks at the data alone.

    ``intervals``: between levels, at the start and at the end, doubled on the way. ``levels``: which a step takes.
    ``target_decay``: of the average of the student that gives the goal; 0 is the student itself.
    """

    teacher: PriorPath = "builtin:portraits-64"
    steps: Count = 3000
    batch_size_per_worker: Count = 16
    learning_rate: Rate = 2e-4
    warmup_steps: Steps = 100
    constant_share: Share = 0.5
    solver: Literal["heun", "euler", "none"] = "euler"
    intervals: tuple[Count, Count] = (10, 80)
    levels: Literal["lognormal", "uniform"] = "lognormal"
    metric: Literal["pseudo_huber", "squared"] = "pseudo_huber"
    weighted: bool = True
    target_decay: Share = 0.0
    ema_decay: Share = 0.999
    eval_every: Count = 200
    eval_images: Count = 64
    samples_every: Count = 500
    checkpoint_every: Count = 200


class Compute(Section):
    num_workers: Count = 2
    threads_per_worker: Count = 1
    use_gpu: bool = False
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    max_failures: Steps = 3


class Tracking(Section):
    """``uri``: an MLflow server; null is a SQLite store in the output folder."""

    uri: str | None = None
    experiment: str = "ipsolve-priors"


class TrainingConfig(Section):
    """``space``: whether the UNet works on an autoencoder's latents or on the pixels themselves (no autoencoder).

    With ``distillation`` both networks are the teacher's, and neither ``autoencoder`` nor ``unet`` is said.
    """

    name: RunName
    space: Literal["latent", "pixel"] = "latent"
    seed: Seed = 0
    output: str = "runs/priors"
    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    unet: UNet = UNet()
    distillation: Distillation | None = None
    compute: Compute = Compute()
    tracking: Tracking = Tracking()

    @property
    def folder(self) -> Path:
        return Path(self.output).absolute() / self.name

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a run and its continuation: all but where and how fast it runs."""
        where = ("compute", "tracking", "output")
        return {key: value for key, value in self.resolved().items() if key not in where}

    def resolved(self) -> dict[str, Any]:
        """Return the request with its defaults filled in: the sections of the networks that this run trains."""
        others = {"distillation"} if self.distillation is None else {"autoencoder", "unet"}
        return self.model_dump(mode="json", exclude=others)


_SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "autoencoder": Autoencoder,
    "unet": UNet,
    "distillation": Distillation,
    "compute": Compute,
    "tracking": Tracking,
}


def load_config(path: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Return the configuration in a YAML file, changed by ``section.key=value`` words.

    Raises:
        RequestError: one line naming the key and what is allowed.
    """
    return parse_config(read_mapping(path, overrides))


def parse_config(tree: Mapping[str, Any]) -> TrainingConfig:
    """Return the checked configuration; RequestError in one line where it is wrong."""
    for key in tree:
        if key not in TrainingConfig.model_fields:
            raise unknown_key("", str(key), TrainingConfig.model_fields)
    sections = {key: build(cls, tree[key], key) for key, cls in _SECTIONS.items() if key in tree}
    config = build(TrainingConfig, {**tree, **sections}, "")
    if config.distillation is not None:
        return _checked_distillation(config, tree)
    if len(config.unet.attention) != len(config.unet.channels):
        raise RequestError("unet.attention", "must say true or false once for each of unet.channels")
    if config.unet.optimiser == "muon" and not hasattr(torch.optim, "Muon"):
        raise RequestError(
            "unet.optimiser", f"muon needs torch 2.9 or newer, this is {torch.__version__}; allowed: adamw"
        )
    for channels, groups, where in (
        (config.autoencoder.channels, config.autoencoder.norm_groups, "autoencoder"),
        (config.unet.channels, config.unet.norm_groups, "unet"),
    ):
        if any(width % groups for width in channels):
            raise RequestError(f"{where}.norm_groups", f"{groups} must divide each of {where}.channels {channels}")
    return config


def _checked_distillation(config: TrainingConfig, tree: Mapping[str, Any]) -> TrainingConfig:
    for section in ("autoencoder", "unet"):
        if section in tree:
            raise RequestError(section, "is the teacher's where there is a distillation; leave it out")
    assert config.distillation is not None
    first, last = config.distillation.intervals
    if first > last:
        raise RequestError("distillation.intervals", f"must not fall, {first} at the start is above {last}")
    return config

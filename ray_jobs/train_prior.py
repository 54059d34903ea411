"""Train a diffusion prior: ``python -m ray_jobs.train_prior CONFIG.yaml [section.key=value ...]``.

Renders the data once (Ray tasks), trains an autoencoder, then a UNet on its latents (Ray Train), or with ``space:
pixel`` a UNet on images alone, or with ``distillation`` makes a consistency prior out of a finished one, and writes
``OUTPUT/NAME/prior`` in diffusers layout. The same command continues a run that was stopped. Exit codes: 0 done, 1
training failed, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ipsolve.datasets import open_source
from ipsolve.files.filesystems import require_local
from ipsolve.priors.networks.diffusers_folder import resolve
from ipsolve.requests.errors import RequestError
from ray_jobs import cli
from ray_jobs.pipeline.cluster.connection import keep_to_loopback
from ray_jobs.training.autoencoder import train_autoencoder
from ray_jobs.training.config import TrainingConfig, load_config
from ray_jobs.training.diffusion import train_unet
from ray_jobs.training.distillation import check_teacher, distil_unet, export_student
from ray_jobs.training.export import encode_shards, export_autoencoder, export_unet
from ray_jobs.training.shards import render_source
from ray_jobs.training.tracking import Tracker


def train_prior(config: TrainingConfig) -> Path:
    """Run what is not done yet of a training and return the folder of the finished prior.

    Raises:
        RequestError: the request is wrong, or the folder holds a run with another configuration.
    """
    _claim_folder(config)
    data, prior = config.data, config.folder / "prior"
    cache = config.folder / "cache"
    train = render_source(data.train, data.num_train, data.size, data.shard_size, cache)
    val = render_source(data.val, data.num_val, data.size, data.shard_size, cache)
    tracker = Tracker.start(config)
    job = {"config": config, "tracker": tracker.address}

    vae = _given_autoencoder(config)
    if vae is None and config.space == "latent":
        vae = prior / "vae"
        if not vae.is_dir():
            _fit("vae", train_autoencoder, {**job, "train": train, "val": val}, config)
            export_autoencoder(config.folder / "vae", train, vae)
    if config.unet.steps:
        work = train_unet if config.distillation is None else distil_unet
        share = 1 / config.compute.num_workers if config.compute.use_gpu else 0
        train_latents = encode_shards(vae, train, cache / "latents-train", share)
        val_latents = encode_shards(vae, val, cache / "latents-val", share)
        _fit("unet", work, {**job, "train": train_latents, "val": val_latents, "vae": vae}, config)
        if config.distillation is None:
            export_unet(config.folder / "unet", prior, config.unet)
        else:
            export_student(config.folder / "unet", resolve(config.distillation.teacher), prior)
    for curve in sorted((config.folder / "curves").glob("*.csv")):
        tracker.artifact(curve, "curves")
    tracker.finish()
    return prior


def _fit(name: str, worker: Callable[[dict[str, Any]], None], job: dict[str, Any], config: TrainingConfig) -> None:
    """Run one stage. Ray Train finds the checkpoints of an earlier attempt by the run's name and folder."""
    compute = config.compute
    TorchTrainer(
        worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=compute.num_workers,
            use_gpu=compute.use_gpu,
            resources_per_worker=None if compute.use_gpu else {"CPU": compute.threads_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(config.folder / "checkpoints"),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=compute.max_failures),
        ),
    ).fit()


def _given_autoencoder(config: TrainingConfig) -> Path | None:
    """Return the folder of the autoencoder that the configuration takes over, None if there is none."""
    if config.distillation is not None:
        check_teacher(config)
        return resolve(config.distillation.teacher) / "vae" if config.space == "latent" else None
    if config.autoencoder.init_from is None:
        return None
    folder = Path(config.autoencoder.init_from).expanduser().absolute()
    for candidate in (folder, folder / "vae"):
        if (candidate / "diffusion_pytorch_model.safetensors").is_file():
            return candidate
    raise RequestError(
        "autoencoder.init_from", f"{folder} holds no diffusion_pytorch_model.safetensors, nor does vae/ in it"
    )


def _claim_folder(config: TrainingConfig) -> None:
    """Write the resolved configuration, or compare with the one that a run in this folder was begun with."""
    config.folder.mkdir(parents=True, exist_ok=True)
    file = config.folder / "config.yaml"
    if not file.exists():
        file.write_text(yaml.safe_dump(config.resolved(), sort_keys=False))
        return
    begun = TrainingConfig(**yaml.safe_load(file.read_text())).identity()
    now = config.identity()
    for section, value in now.items():
        if begun.get(section) != value:
            raise RequestError(section, f"{config.folder} holds a run begun with other values; give another name")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, train, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.train_prior", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="YAML file, such as configs/priors/portraits64.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="single entries to replace")
    words = parser.parse_args(arguments)

    def command() -> int:
        config = load_config(words.config, words.overrides)
        require_local(config.output, "output")
        _given_autoencoder(config)
        for source in (config.data.train, config.data.val):
            open_source(source, config.data.size)
        _claim_folder(config)
        if not ray.is_initialized():
            _start_ray(config)
        print(f"prior: {train_prior(config)}")
        return cli.COMPLETE

    return cli.run_command(command)


def _start_ray(config: TrainingConfig) -> None:
    if "RAY_ADDRESS" in os.environ:
        ray.init()
        return
    keep_to_loopback()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # Ray Train would print a worker's lines twice
    # one CPU more than the workers take, for the trainer's own controller
    cores = config.compute.num_workers * config.compute.threads_per_worker
    ray.init(address="local", num_cpus=max(cores + 1, os.cpu_count() or 1), include_dashboard=False)


if __name__ == "__main__":
    sys.exit(main())

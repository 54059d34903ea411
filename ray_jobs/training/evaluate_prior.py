"""The figures of a model card: ``python -m ray_jobs.training.evaluate_prior FOLDER [--samples 1000] [--out DIR]``.

All on images that the prior was not trained on: the autoencoder's PSNR and the error of epsilon by quarter of the noise
levels (latent priors), the PSNR of one denoising at several noise levels (pixel priors and fitted mixtures), and
Frechet distances between sets of ``prior_features``: samples to held-out images, beside training images to held-out
images, which is what a perfect sampler would get at that number of images. The features are the built-in latent
prior's unless the prior has an encoder of its own, so that they compare. Writes ``figures.json`` and a sheet of
samples above real images. No Ray, no MLflow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from ipsolve.conventions import from_uint8
from ipsolve.datasets import ImageError, open_source
from ipsolve.files.filesystems import require_local
from ipsolve.metrics.distances import Gaussian, frechet_distance, moments
from ipsolve.priors import LatentPrior, MixturePrior, PixelPrior, Prior, load_prior
from ipsolve.priors.features import prior_features
from ipsolve.priors.mixtures.fitted_mixture import DESCRIPTION
from ipsolve.priors.networks.diffusers_folder import has_autoencoder, resolve
from ipsolve.priors.networks.prediction import CONSISTENCY, Epsilon
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.networks.unet import UNetPrior
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ray_jobs import cli
from ray_jobs.training.autoencoder import psnr
from ray_jobs.training.sampling import CALLS, consistency_states, contact_sheet, flow_states, sample_states

_BATCH = 50
NOISE_RATIOS = (0.05, 0.2, 0.5, 1.0, 3.0)  # sigma / alpha: the noise std of an image in [-1, 1]


def images_of(spec: str, start: int, count: int, size: int) -> Tensor:
    """Return ``count`` images of a source from index ``start``, (count, 3, size, size) in [-1, 1]."""
    loaded = open_source(spec, size).load_batch(range(start, start + count), size)
    images = [image for image in loaded if not isinstance(image, ImageError)]
    return from_uint8(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


@torch.no_grad()
def autoencoder_psnr(prior: LatentPrior, images: Tensor) -> Tensor:
    """Return the PSNR of decode(encode(x)) in dB, (N,)."""
    return torch.cat([psnr(prior.decode(prior.encode(x)), x) for x in torch.split(images, _BATCH)])


@torch.no_grad()
def epsilon_errors(prior: LatentPrior, images: Tensor, seed: int = 5) -> Tensor:
    """Return the squared error of epsilon of each image, (N,), the n-th of N at time 1000 n / N."""
    z = torch.cat([prior.encode(x) for x in torch.split(images, _BATCH)])
    times = np.arange(len(z)) * 1000 // len(z)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    levels = [prior.schedule.level(float(time)) for time in times]
    alpha, sigma = (
        torch.tensor(values).view(-1, 1, 1, 1) for values in zip(*[each[1:] for each in levels], strict=True)
    )
    parts = zip(
        torch.split(alpha * z + sigma * noise, _BATCH), torch.split(torch.from_numpy(times), _BATCH), strict=True
    )
    predicted = torch.cat([prior.unet(z_t, t).sample for z_t, t in parts])
    return (predicted - noise).square().mean((1, 2, 3))


@torch.no_grad()
def denoising_psnr(prior: Prior, images: Tensor, ratio: float, seed: int = 5) -> Tensor:
    """Return the PSNR of E[x_0 | x_t] in dB at the level with that sigma / alpha, (N,)."""
    t = prior.schedule.at_ratio(ratio)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    noisy = t.alpha * images + t.sigma * noise
    return torch.cat(
        [
            psnr(prior.denoise(x_t, t), x)
            for x_t, x in zip(torch.split(noisy, _BATCH), torch.split(images, _BATCH), strict=True)
        ]
    )


def kind_of(folder: Path) -> str:
    """Return the kind of prior that a folder holds: ``fitted_mixture``, ``consistency``, ``latent`` or ``pixel``."""
    if (folder / DESCRIPTION).is_file():
        return "fitted_mixture"
    if isinstance(load_schedule(folder).prediction, CONSISTENCY):
        return "consistency"
    return "latent" if has_autoencoder(folder) else "pixel"


def drawn_states(prior: Prior, folder: Path, count: int, steps: int) -> Tensor:
    """Return samples of a prior's states, (count, *latent_shape): exact ones of a mixture, else by DDIM or Euler."""
    if isinstance(prior, MixturePrior):
        return prior.sample(ImageRng(torch.arange(count))).float()
    assert isinstance(prior, UNetPrior)
    if "flow" in prior.traits:
        return flow_states(prior, prior.latent_shape, count, steps, seed=0)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    states = sample_states(prior.unet, scheduler, count, steps, seed=0)
    return pixel_shuffle(states, prior.patch_size) if isinstance(prior, PixelPrior) else states


def consistency_samples(prior: UNetPrior, count: int, calls: int) -> Tensor:
    """Return samples of a consistency prior's states, (count, *latent_shape), by so many calls of its network."""
    parts = [len(part) for part in torch.split(torch.empty(count), _BATCH)]
    return torch.cat([consistency_states(prior, prior.latent_shape, n, calls, seed) for seed, n in enumerate(parts)])


def decoded(prior: Prior, states: Tensor) -> Tensor:
    """Return the images of states, clipped to [-1, 1]."""
    return torch.cat([prior.decode(z) for z in torch.split(states, _BATCH)]).clamp(-1, 1)


def fitted(prior: Prior, images: Tensor) -> Gaussian:
    """Return the Gaussian of ``prior_features`` of images."""
    gaussian = moments(prior_features(prior, x).numpy() for x in torch.split(images, _BATCH))
    if gaussian is None:
        raise RequestError("samples", "a Frechet distance needs at least two images")
    return gaussian


@torch.no_grad()
def evaluate_prior(path: str, samples: int, steps: int, held_out: int, out: Path) -> dict[str, object]:
    """Compute, print and write the figures; return them."""
    prior = load_prior({"prior": kind_of(resolve(path)), "path": path})
    features = prior if prior.latent else load_prior({"prior": "latent", "path": "builtin:portraits-64"})
    size = prior.image_shape[-1]
    figures: dict[str, object] = {"prior": path, "size": size}

    def note(**values: object) -> None:
        figures.update(values)
        print(json.dumps(values), flush=True)

    val = images_of("portraits:val", 0, held_out, size)
    if isinstance(prior, LatentPrior):
        for split, images in (("val", val), ("test", images_of("portraits:test", 0, held_out, size))):
            values = autoencoder_psnr(prior, images)
            note(**{f"autoencoder_psnr_{split}": [float(values.mean()), float(values.std()), float(values.min())]})
        if isinstance(prior.prediction, Epsilon):  # the error of another output is not on its scale
            errors = epsilon_errors(prior, val)
            quarters = [float(part.mean()) for part in errors.tensor_split(4)]
            note(held_out=held_out, epsilon_mse=float(errors.mean()), epsilon_mse_by_quarter=quarters)
    else:
        for ratio in NOISE_RATIOS:
            note(**{f"denoising_psnr_{ratio}": float(denoising_psnr(prior, val, ratio).mean())}, held_out=held_out)

    real = fitted(features, images_of("portraits:test", 0, samples, size))
    trained = fitted(features, images_of("portraits:train", 0, samples, size))
    other = fitted(features, images_of("portraits:val", 0, samples, size))
    note(fd_prior_n=samples, fd_prior_val_to_test=frechet_distance(other, real))
    note(fd_prior_train_to_test=frechet_distance(trained, real))
    if "consistency" in prior.traits and isinstance(prior, UNetPrior):
        for calls in CALLS:
            states = consistency_samples(prior, samples, calls)
            drawn = decoded(prior, states)
            note(**{f"fd_prior_samples_to_test_{calls}_calls": frechet_distance(fitted(features, drawn), real)})
        sampler = f"{CALLS[-1]} calls"
    else:
        states = drawn_states(prior, resolve(path), samples, steps)
        drawn = decoded(prior, states)
        kind = f"Euler-{steps}" if "flow" in prior.traits else f"DDIM-{steps}, eta 0"
        sampler = "exact" if isinstance(prior, MixturePrior) else kind
        note(fd_prior_samples_to_test=frechet_distance(fitted(features, drawn), real))
    note(sampler=sampler, sample_std=float(states.std()), held_out_std=float(prior.encode(val).std()))

    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    contact_sheet(torch.cat([drawn[:16], val[:16]]), columns=16).save(out / "samples.png", optimize=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, evaluate, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.training.evaluate_prior", description=__doc__.splitlines()[0]
    )
    parser.add_argument("path", help="a prior's folder, or builtin:portraits-64")
    parser.add_argument("--samples", type=int, default=1000, help="images on each side of a Frechet distance")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps of a sample")
    parser.add_argument("--held-out", type=int, default=512, help="images for PSNR and epsilon errors")
    parser.add_argument("--out", default="runs/priors/figures", help="folder to write")
    words = parser.parse_args(arguments)

    def command() -> int:
        for name, least in (("samples", 2), ("steps", 1), ("held_out", 2)):
            if getattr(words, name) < least:
                key = name.replace("_", "-")
                raise RequestError(f"--{key}", f"must be at least {least} (got {getattr(words, name)})")
        require_local(words.out, "--out")
        evaluate_prior(words.path, words.samples, words.steps, words.held_out, Path(words.out))
        return cli.COMPLETE

    return cli.run_command(command)


if __name__ == "__main__":
    sys.exit(main())

"""Fit a Gaussian mixture to the images of a data source and write it as a prior folder.

    python -m ray_jobs.fit_mixture configs/priors/portraits64_mixture.yaml [key=value ...]

The prior has an exact denoiser at every noise level, and needs neither a GPU nor a download: what solvers in pixel
space are compared on where no pixel diffusion model is at hand.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.conventions import from_uint8
from ipsolve.datasets import ImageError, Source, open_source
from ipsolve.files.filesystems import require_local
from ipsolve.priors.mixtures.fitted_mixture import write_mixture
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.ppca import fit_mixture
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import Seed, read_mapping
from ray_jobs import cli

BATCH = 64


@dataclass(frozen=True, config={"extra": "forbid"})
class FitConfig:
    """What is fitted to what.

    Args:
        output: the prior folder to write.
        data: ``source`` and what else it takes; ``limit`` is the number of images.
        size: their height and width.
        num_components, rank, iterations, seed: see :func:`ipsolve.priors.mixtures.ppca.fit_mixture`.
    """

    output: str
    data: dict[str, Any]
    size: Annotated[int, Field(ge=8)] = 64
    num_components: Annotated[int, Field(ge=1)] = 8
    rank: Annotated[int, Field(ge=1)] = 128
    iterations: Annotated[int, Field(ge=0)] = 4
    seed: Seed = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.fit_mixture", description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", help="a YAML file, see configs/priors/portraits64_mixture.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    return cli.run_command(lambda: fit(build(FitConfig, read_mapping(options.config, options.overrides), "")))


def fit(config: FitConfig) -> int:
    """Fit, write and describe a mixture; return the exit code."""
    start = time.monotonic()
    require_local(config.output, "output")
    source = open_source(config.data, config.size)
    count = min(config.data.get("limit") or len(source), len(source))
    _require_enough("data.limit", count, config)
    x, errors = read_images(source, count, config.size)
    bad = f", {len(errors)} of {count} could not be read, the first one: {errors[0]}" if errors else ""
    print(f"{len(x)} images read in {time.monotonic() - start:.0f} s{bad}", flush=True)
    _require_enough("data.source", len(x), config)
    mixture = fit_mixture(x, config.num_components, config.rank, config.iterations, config.seed)
    require_finite(mixture)
    how = {"data": config.data, "rank": config.rank, "iterations": config.iterations, "seed": config.seed}
    write_mixture(Path(config.output), mixture, (3, config.size, config.size), how)
    shares = ", ".join(f"{weight:.2f}" for weight in mixture.log_weights.exp().tolist())
    assert mixture.residual is not None  # of low-rank components
    noise = ", ".join(f"{std:.3f}" for std in mixture.residual.sqrt().tolist())
    print(f"weights {shares}\nresidual std {noise}\nafter {time.monotonic() - start:.0f} s")
    print(f"done: use it with  prior: {{prior: fitted_mixture, path: {config.output}}}")
    return cli.COMPLETE


def _require_enough(key: str, count: int, config: FitConfig) -> None:
    least = 2 * config.num_components * config.rank
    if count < least:
        what = f"{config.num_components} components of rank {config.rank}"
        raise RequestError(key, f"{count} images are too few for {what}; allowed: {least} and more")


def require_finite(mixture: GaussianMixture) -> None:
    """Raise RequestError where a component has no residual: its images leave nothing beyond ``rank`` directions."""
    std = mixture.residual.sqrt()  # type: ignore[union-attr]  # NaN of a variance that rounding made negative
    bad = int((~torch.isfinite(std)).sum())
    if bad:
        raise RequestError(
            "rank",
            f"the residual of {bad} of {len(std)} components is NaN or Inf; allowed: a smaller rank, or images "
            "that differ more",
        )


def read_images(source: Source, count: int, size: int) -> tuple[Tensor, list[ImageError]]:
    """Return those of the first ``count`` images that can be read as rows, (n, 3 size^2) float32 in [-1, 1], and why
    the others cannot."""
    rows = torch.empty(count, 3 * size * size)
    filled, errors = 0, list[ImageError]()
    for first in range(0, count, BATCH):
        loaded = source.load_batch(range(first, min(first + BATCH, count)), size)
        images = [image for image in loaded if not isinstance(image, ImageError)]
        errors += [image for image in loaded if isinstance(image, ImageError)]
        if images:
            batch = from_uint8(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).flatten(1)
            rows[filled : filled + len(batch)] = batch
            filled += len(batch)
    return rows[:filled], errors


if __name__ == "__main__":
    sys.exit(main())

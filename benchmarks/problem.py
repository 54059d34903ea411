"""The problems that are timed: held-out portraits, degraded as an evaluation does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ipsolve.conventions import from_uint8
from ipsolve.datasets.portraits import Portraits
from ipsolve.operators.base import Operator
from ipsolve.operators.tasks import parse_task
from ipsolve.problem import Measurement, measure
from ipsolve.randomness import ImageRng, image_rng

PRIOR = {"prior": "latent", "path": "builtin:portraits-64"}
SR4 = {"operator": "super_resolution", "factor": 4, "noise_std": 0.01}
BOX = {"operator": "box_inpainting", "box": 24, "noise_std": 0.01}
SEED = 0


class Problem(NamedTuple):
    """Truth x, (B, 3, H, W), what is measured of it, and the ids by which its random numbers are drawn."""

    x: Tensor
    operator: Operator
    measurement: Measurement
    image_ids: list[str]

    def rng(self) -> ImageRng:
        """Return the streams of a solver, from their start."""
        return image_rng(SEED, self.image_ids, "solver", self.x.device)


def problem(task: Mapping[str, Any], indices: range, size: int, device: torch.device | str = "cpu") -> Problem:
    """Return the measurements of some test portraits at ``size`` pixels."""
    source = Portraits("test")
    image_ids = source.image_ids(indices)
    images = torch.from_numpy(np.stack([source.load(index, size) for index in indices]))
    x = from_uint8(images.permute(0, 3, 1, 2)).to(device)
    spec, noise = parse_task(task)
    operator, measurement = measure(spec, noise, x, SEED, image_ids)
    return Problem(x, operator, measurement, image_ids)

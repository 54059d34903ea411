"""The problems that are timed: held-out portraits, degraded as an evaluation does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ipsolve.conventions import from_uint8
from ipsolve.datasets.portraits import Portraits
from ipsolve.operators.tasks import parse_task
from ipsolve.priors import Prior
from ipsolve.problem import Posed, pose

PRIOR = {"prior": "latent", "path": "builtin:portraits-64"}
SR4 = {"operator": "super_resolution", "factor": 4, "noise_std": 0.01}
BOX = {"operator": "box_inpainting", "box": 24, "noise_std": 0.01}
SEED = 0


def portraits(task: Mapping[str, Any], indices: range, prior: Prior, device: torch.device | str = "cpu") -> Posed:
    """Return the problems of some test portraits, at the size of the prior. Its random streams are at their start."""
    source = Portraits("test")
    image_ids = source.image_ids(indices)
    images = torch.from_numpy(np.stack([source.load(index, prior.image_shape[-1]) for index in indices]))
    x = from_uint8(images.permute(0, 3, 1, 2)).to(device)
    return pose(parse_task(task), x, prior, SEED, image_ids)

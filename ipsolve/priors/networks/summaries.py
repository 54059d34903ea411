"""What a plan is told of a folder in diffusers layout."""

from __future__ import annotations

from pathlib import Path

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.networks.unet import abilities_of
from ipsolve.priors.spec import PriorSummary
from ipsolve.requests.traits import Traits


def summary_of(
    folder: Path, image_shape: Shape, latent: bool, abilities: Traits = frozenset(), tokens: int | None = None
) -> PriorSummary:
    """Return the summary of a folder's prior, (C, H, W) images; RequestError where its scheduler is not supported.

    Args:
        tokens: see :func:`load_schedule`.
    """
    schedule, prediction = load_schedule(folder, tokens)
    return PriorSummary(image_shape, latent, abilities_of(prediction, schedule) | abilities, schedule)

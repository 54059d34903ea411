"""The CPU stage: get the input of a batch, such as its images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ipsolve.datasets import Source
from ray_jobs.pipeline.schedule import Schedule
from ray_jobs.pipeline.worker import Loader

if TYPE_CHECKING:
    import ray

T = TypeVar("T")


@lru_cache(maxsize=2)
def _fetched(reference: ray.ObjectRef[T]) -> T:
    import ray  # not above: what is set by cluster.connect has to be there before it is imported

    fetched: T = ray.get(reference)  # once per process, not once per batch
    return fetched


def read(
    row: dict[str, Any], schedule: ray.ObjectRef[Schedule], loader: ray.ObjectRef[Loader]
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a stretch of the schedule with their input.

    Args:
        row: ``start`` and ``stop`` of the stretch.
        loader: makes the row of a batch, such as :func:`load`.
    """
    for cell, indices in _fetched(schedule).batches(int(row["start"]), int(row["stop"])):
        yield _fetched(loader)(cell, indices)


def load(source: Source, cell: str, indices: list[int], size: int) -> dict[str, Any]:
    """Return a batch with its images.

    An image that cannot be read leaves a reason in ``errors`` (empty for the others) and no pixels in ``images``,
    the readable ones' (n, size, size, 3) uint8. The rest travels as JSON: Ray Data makes tensors out of lists.
    """
    loaded = source.load_batch(indices, size)
    images = [image for image in loaded if isinstance(image, np.ndarray)]
    batch = {
        "cell": cell,
        "image_ids": source.image_ids(indices),
        "errors": ["" if isinstance(image, np.ndarray) else str(image) or "unreadable" for image in loaded],
        "shape": [len(images), size, size, 3],
    }
    return {"batch": json.dumps(batch), "images": b"".join(image.tobytes() for image in images)}

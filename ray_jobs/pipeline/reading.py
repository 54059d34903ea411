"""The CPU stage: read and decode the images of a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import ray

from ipsolve.datasets import Source


@lru_cache(maxsize=1)
def _fetched(source: ray.ObjectRef[Source]) -> Source:
    fetched: Source = ray.get(source)  # once per process, not once per batch
    return fetched


def read(row: dict[str, Any], source: ray.ObjectRef[Source], size: int) -> Iterator[dict[str, Any]]:
    """Yield the batches of a chunk of work with their images.

    Args:
        row: ``batches``, a JSON list of [cell hash, indices].
        source: the images, as the plan saw them.
        size: pixels of a side.
    """
    for cell, indices in json.loads(row["batches"]):
        yield load(_fetched(source), cell, indices, size)


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

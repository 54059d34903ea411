"""The CPU stage: get the input of a batch, such as its images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ipsolve.datasets import Source
from ipsolve.datasets.base import Image, ImageError
from ray_jobs.pipeline.stages.dispatch import Batch, Schedule
from ray_jobs.pipeline.stages.reader_deaths import Watch
from ray_jobs.pipeline.stages.worker import Loader

if TYPE_CHECKING:
    import ray

T = TypeVar("T")


@lru_cache(maxsize=2)
def _fetched(reference: ray.ObjectRef[T]) -> T:
    import ray  # not above: what is set by cluster.connect has to be there before it is imported

    fetched: T = ray.get(reference)  # once per process, not once per batch
    return fetched


def read(
    row: dict[str, Any], schedule: ray.ObjectRef[Schedule], loader: ray.ObjectRef[Loader], location: str
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a stretch of the schedule with their input.

    Args:
        row: ``start`` and ``stop`` of the stretch.
        loader: makes the row of a batch, such as :func:`load`.
        location: of the run.
    """
    start, stop = int(row["start"]), int(row["stop"])
    yield from read_watched(_fetched(schedule).batches(start, stop), start, _fetched(loader), location)


def read_watched(batches: Iterator[Batch], start: int, loader: Loader, location: str) -> Iterator[dict[str, Any]]:
    """Yield batches, of which the first has the number ``start``; an image that kills its reader is found and left."""
    watch = Watch(location, start)
    for number, (cell, indices) in enumerate(batches, start):
        each = {"watch": partial(watch.image, number)} if watch.batch(number) else {}
        row = loader(cell, indices, **each)
        watch.rest()
        yield row


def load(
    source: Source, cell: str, indices: list[int], size: int, watch: Callable[[int], str] | None = None
) -> dict[str, Any]:
    """Return a batch with its images, read one by one where ``watch`` is to be asked before each.

    An image that cannot be read leaves a reason in ``errors`` (empty for the others) and no pixels in ``images``,
    the readable ones' (n, size, size, 3) uint8. The rest travels as JSON: Ray Data makes tensors out of lists.
    """
    if watch is None:
        loaded = source.load_batch(indices, size)
    else:
        loaded = [_watched(source, index, size, watch(index)) for index in indices]
    images = [image for image in loaded if isinstance(image, np.ndarray)]
    batch = {
        "cell": cell,
        "image_ids": source.image_ids(indices),
        "errors": ["" if isinstance(image, np.ndarray) else str(image) or "unreadable" for image in loaded],
        "shape": [len(images), size, size, 3],
    }
    return {"batch": json.dumps(batch), "images": b"".join(image.tobytes() for image in images)}


def _watched(source: Source, index: int, size: int, refused: str) -> Image | ImageError:
    return ImageError(refused) if refused else source.load_batch([index], size)[0]

"""The CPU stage: get the input of a batch, such as its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ipsolve.datasets import Source
from ipsolve.datasets.base import Image, ImageError
from ipsolve.evaluation.batch import Batch
from ipsolve.runs.cells import Cell
from ray_jobs.pipeline.causes import as_stage_error
from ray_jobs.pipeline.stages.dispatch import Assignment, Dispatch
from ray_jobs.pipeline.stages.reader_deaths import ReaderDeaths
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
    row: dict[str, Any], dispatch: ray.ObjectRef[Dispatch], loader: ray.ObjectRef[Loader], location: str
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a stretch of the dispatch with their input.

    Args:
        row: ``start`` and ``stop`` of the stretch.
        loader: reads a batch, such as :func:`load`.
        location: of the run.
    """
    start, stop = int(row["start"]), int(row["stop"])
    with as_stage_error():
        yield from read_watched(_fetched(dispatch).batches(start, stop), start, _fetched(loader), location)


def read_watched(
    assignments: Iterator[Assignment], start: int, loader: Loader, location: str
) -> Iterator[dict[str, Any]]:
    """Yield batches, of which the first has the number ``start``; an image that kills its reader is found and left."""
    deaths = ReaderDeaths(location, start)
    for number, (cell, indices) in enumerate(assignments, start):
        watch = {"watch": partial(deaths.image, number)} if deaths.batch(number) else {}
        row = loader(cell, indices, **watch).to_row()
        deaths.rest()
        yield row


def load(source: Source, cell: Cell, indices: list[int], size: int, watch: Callable[[int], str] | None = None) -> Batch:
    """Return a batch with its images, (B, size, size, 3) uint8.

    Args:
        watch: is asked before each image, which are then read one by one.
    """
    if watch is None:
        loaded = source.load_batch(indices, size)
    else:
        loaded = [_watched(source, index, size, watch(index)) for index in indices]
    found = dict(zip(source.image_ids(indices), loaded, strict=True))
    images = {name: image for name, image in found.items() if isinstance(image, np.ndarray)}
    errors = {name: str(image) or "unreadable" for name, image in found.items() if name not in images}
    stacked = np.stack(list(images.values())) if images else np.zeros((0, size, size, 3), np.uint8)
    words = [
        {name: text for name, text in zip(found, texts, strict=True) if text is not None and name in images}
        for texts in (source.captions(indices), source.captions(indices, negative=True))
    ]
    return Batch(cell, tuple(images), stacked, errors, *words)


def _watched(source: Source, index: int, size: int, refused: str) -> Image | ImageError:
    return ImageError(refused) if refused else source.load_batch([index], size)[0]

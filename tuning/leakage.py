"""Whether the images that choose the hyper-parameters are also among those that are reported on.

Two descriptions of a source can name one image: a folder and a glob in it, photographs whole and in tiles, a folder
and a Parquet file made of it. So two things are compared: where each image comes from (its file, whatever is cut out
of it), and of what is at most a few, the decoded pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ipsolve.datasets import ImageError, Source
from ipsolve.datasets.files import ImageFiles
from ipsolve.datasets.listed import LocalFiles
from ipsolve.datasets.portraits import Portraits
from ipsolve.datasets.tiles import TiledImages
from ipsolve.datasets.window import Window
from ipsolve.runs.experiment import Experiment

MOST_COMPARED = 1000  # images of the evaluation by their pixels: some seconds, before a search of hours
_BATCH = 64


def shared_image(chosen_on: Experiment, order: Sequence[int], reported_on: Experiment) -> tuple[str, str] | None:
    """Return the ids of an image in both experiments, None where none was found.

    Args:
        chosen_on: all of its images are compared by where they come from.
        order: those of its images that trials see, which are compared by their pixels as well.
        reported_on: of its images the first ``MOST_COMPARED`` are compared by their pixels.
    """
    known = dict(zip(_origins(chosen_on), chosen_on.image_ids, strict=True))
    for origin, image_id in zip(_origins(reported_on), reported_on.image_ids, strict=True):
        if origin in known:
            return known[origin], image_id
    if all(isinstance(_whole(each.source), Portraits) for each in (chosen_on, reported_on)):
        return None  # a number is one portrait, and drawing them takes long
    pixels = dict(_pixels(chosen_on, order))
    others = _pixels(reported_on, range(min(MOST_COMPARED, len(reported_on.image_ids))))
    return next(((pixels[digest], image_id) for digest, image_id in others if digest in pixels), None)


def _whole(source: Source) -> Source:
    return source.source if isinstance(source, Window) else source


def _origins(experiment: Experiment) -> list[str]:
    """Return for each image what says where it comes from: its file, or its id in what it was read from."""
    source, ids = _whole(experiment.source), experiment.image_ids
    if isinstance(source, Portraits):
        return ids
    if not isinstance(source, (ImageFiles, TiledImages)):
        whole = source.describe()
        return [f"{whole}/{image_id}" for image_id in ids]
    files = source.files
    places = {files.name(index): files.where(index) for index in range(len(files))}
    if isinstance(files, LocalFiles):
        places = {name: str(Path(place).resolve()) for name, place in places.items()}
    tiled = isinstance(source, TiledImages)
    return [places[image_id.rpartition("@")[0] if tiled else image_id] for image_id in ids]


def _pixels(experiment: Experiment, indices: Sequence[int]) -> Iterator[tuple[bytes, str]]:
    """Yield a digest of the decoded pixels and the id of each image that can be read."""
    left = iter(indices)
    while batch := list(islice(left, _BATCH)):
        images = experiment.source.load_batch(batch, experiment.image_size)
        for index, image in zip(batch, images, strict=True):
            if not isinstance(image, ImageError):
                yield hashlib.blake2b(image.tobytes()).digest(), experiment.image_ids[index]

"""Images and latents as folders of .npy shards: written once by Ray tasks, then read through memory maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ipsolve.datasets import ImageError, Source, open_source
from ipsolve.datasets.base import digest
from ipsolve.requests.errors import RequestError


class Shards:
    """The arrays of a folder, concatenated along their first axis in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self._maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._ends = np.cumsum([len(each) for each in self._maps])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return rows in the given order."""
        shard = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        return torch.from_numpy(np.stack([self._maps[s][r - starts[s]] for s, r in zip(shard, rows, strict=True)]))


def batch_rows(step: int, batch_size: int, num_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of global batch ``step``: epochs of random order, a function of its arguments alone.

    So a run that continues from a checkpoint sees the batches that it would have seen.
    """
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // num_rows
    orders = {epoch: np.random.default_rng([seed, int(epoch)]).permutation(num_rows) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % num_rows] for epoch, position in zip(epochs, positions, strict=True)])


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write ``path`` in one step: a killed task leaves no half shard behind."""
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        np.save(file, array)
    unfinished.replace(path)


@ray.remote(num_cpus=1, max_retries=3)
def _render(source: Source, start: int, stop: int, size: int, path: Path) -> list[str]:
    torch.set_num_threads(1)
    indices = range(start, stop)
    loaded = source.load_batch(indices, size)
    images = [image for image in loaded if not isinstance(image, ImageError)]
    write_array(path, np.stack(images) if images else np.empty((0, size, size, 3), np.uint8))
    ids = source.image_ids(indices)
    return [f"{name}: {image}" for name, image in zip(ids, loaded, strict=True) if isinstance(image, ImageError)]


def render_source(spec: str, count: int, size: int, shard_size: int, cache: Path) -> Path:
    """Return the folder of the first ``count`` images of a source, rendering by Ray tasks what is missing.

    Shards are uint8 (n, size, size, 3). Unreadable images are left out and printed.

    Raises:
        RequestError: the source is wrong, or none of its images can be read.
    """
    source = open_source(spec, size)
    count = min(count, len(source))
    facts = {**source.describe(), "count": count, "size": size, "shard_size": shard_size}
    folder = cache / f"images-{digest(sorted(facts.items()))}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.json").write_text(json.dumps(facts, indent=1))
    starts = range(0, count, shard_size)
    paths = {start: folder / f"{start:09d}.npy" for start in starts}
    shared = ray.put(source)
    tasks = [
        _render.remote(shared, start, min(start + shard_size, count), size, path)
        for start, path in paths.items()
        if not path.exists()
    ]
    for failures in ray.get(tasks):
        for failure in failures:
            print(f"not used: {failure}", flush=True)
    if len(Shards(folder)) == 0:
        raise RequestError("data", f"none of the {count} images of {spec} can be read")
    return folder

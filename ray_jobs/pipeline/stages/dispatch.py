"""The order of a run's missing batches, small however many images there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Missing = NDArray[np.int64] | range  # indices of images; a cell with nothing done yet is a range and takes no memory
Batch = tuple[str, list[int]]  # cell hash, image indices


@dataclass(frozen=True)
class Schedule:
    """The batches of all cells, in the order they are handed out.

    A batch is a slice of its cell's missing images and is made when asked for: six bytes each are kept, so that the
    schedule of ten million images by 25 cells takes less memory than the names of the images.

    Args:
        missing: what is left of each cell, by cell hash.
        size: images of a batch; the last of a cell may be smaller.
        owners: the number of the cell (in ``missing``) of each batch.
        numbers: which batch of its cell each is.
    """

    missing: Mapping[str, Missing]
    size: int
    owners: NDArray[np.uint16]
    numbers: NDArray[np.uint32]

    @classmethod
    def of(cls, missing: Mapping[str, Missing], size: int, seconds: Mapping[str, float], num_actors: int) -> Schedule:
        """Order the batches so that all cells advance together, end together, and no long batch comes last.

        With n batches in a cell, batch i is due when the share (i + 1) / n of the whole run is over, less what one of
        them takes: the last of a long kind finds its actor late and must not be what all wait for. It is handed out as
        much earlier as it takes. Where all cost the same this deals the cells round robin.

        Args:
            seconds: for an image of each cell; where none has been measured, cells are taken to cost the same.
            num_actors: how many work at once.
        """
        known = [seconds[name] for name in missing if seconds.get(name)]
        usual = sum(known) / len(known) if known else 1.0
        counts = {name: -(-len(left) // size) for name, left in missing.items()}
        cost = {name: seconds.get(name, usual) * size for name in missing}
        total = sum(counts[name] * cost[name] for name in missing) / max(num_actors, 1)
        owners = np.repeat(np.arange(len(missing), dtype=np.uint16), list(counts.values()))
        numbers = np.concatenate([np.arange(n, dtype=np.uint32) for n in counts.values()] or [np.zeros(0, np.uint32)])
        steps = {name: max(total - cost[name], 0.0) / max(n, 1) for name, n in counts.items()}
        due = np.concatenate(
            [np.arange(1, n + 1) * steps[name] - cost[name] for name, n in counts.items()] or [np.zeros(0)]
        )
        # rounded, so that equal costs stay a tie and the cells keep their order; stable for the same reason
        order = np.argsort(np.round(due / max(total, 1e-30), 12), kind="stable")
        return cls(missing, size, owners[order], numbers[order])

    def __len__(self) -> int:
        return len(self.owners)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches from ``start`` to before ``stop``, in order."""
        names: Sequence[str] = list(self.missing)
        for owner, number in zip(self.owners[start:stop].tolist(), self.numbers[start:stop].tolist(), strict=True):
            name, first = names[owner], number * self.size
            indices = self.missing[name][first : first + self.size]
            yield name, list(indices) if isinstance(indices, range) else indices.tolist()

    def chunks(self, most: int) -> list[tuple[int, int]]:
        """Return at most ``most`` stretches (start, stop) that cover the schedule."""
        step = -(-len(self) // most) or 1
        return [(start, min(start + step, len(self))) for start in range(0, len(self), step)]

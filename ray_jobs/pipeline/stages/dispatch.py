"""The order of a run's missing batches, small however many images there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipsolve.runs.cells import Cell

Missing = NDArray[np.int64] | range  # indices of images; a cell with nothing done yet is a range and takes no memory
Assignment = tuple[Cell, list[int]]  # the indices of the images of a batch


@dataclass(frozen=True)
class Dispatch:
    """The batches of all cells, in the order they are handed out.

    A batch is a slice of its cell's missing images and is made when asked for: six bytes each are kept, so that the
    dispatch of ten million images by 25 cells takes less memory than the names of the images.

    Args:
        missing: what is left of each cell.
        size: images of a batch; the last of a cell may be smaller.
        owners: the number of the cell (in ``missing``) of each batch.
        numbers: which batch of its cell each is.
    """

    missing: Mapping[Cell, Missing]
    size: int
    owners: NDArray[np.uint16]
    numbers: NDArray[np.uint32]

    @classmethod
    def of(cls, missing: Mapping[Cell, Missing], size: int, seconds: Mapping[Cell, float], num_actors: int) -> Dispatch:
        """Order the batches so that all cells advance together, end together, and no long batch comes last.

        With n batches in a cell, batch i is due when the share (i + 1) / n of the whole run is over, less what one of
        them takes: the last of a long kind finds its actor late and must not be what all wait for. It is handed out as
        much earlier as it takes. Where all cost the same this deals the cells round robin.

        Args:
            seconds: for an image of each cell; where none has been measured, cells are taken to cost the same.
            num_actors: how many work at once.
        """
        known = [seconds[cell] for cell in missing if seconds.get(cell)]
        usual = sum(known) / len(known) if known else 1.0
        counts = {cell: -(-len(left) // size) for cell, left in missing.items()}
        cost = {cell: seconds.get(cell, usual) * size for cell in missing}
        total = sum(counts[cell] * cost[cell] for cell in missing) / max(num_actors, 1)
        owners = np.repeat(np.arange(len(missing), dtype=np.uint16), list(counts.values()))
        numbers = np.concatenate([np.arange(n, dtype=np.uint32) for n in counts.values()] or [np.zeros(0, np.uint32)])
        steps = {cell: max(total - cost[cell], 0.0) / max(n, 1) for cell, n in counts.items()}
        due = np.concatenate(
            [np.arange(1, n + 1) * steps[cell] - cost[cell] for cell, n in counts.items()] or [np.zeros(0)]
        )
        # rounded, so that equal costs stay a tie and the cells keep their order; stable for the same reason
        order = np.argsort(np.round(due / max(total, 1e-30), 12), kind="stable")
        return cls(missing, size, owners[order], numbers[order])

    def __len__(self) -> int:
        return len(self.owners)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Assignment]:
        """Yield the batches from ``start`` to before ``stop``, in order."""
        cells: Sequence[Cell] = list(self.missing)
        for owner, number in zip(self.owners[start:stop].tolist(), self.numbers[start:stop].tolist(), strict=True):
            cell, first = cells[owner], number * self.size
            indices = self.missing[cell][first : first + self.size]
            yield cell, list(indices) if isinstance(indices, range) else indices.tolist()

    def chunks(self, most: int) -> list[tuple[int, int]]:
        """Return at most ``most`` stretches (start, stop) that cover the dispatch."""
        step = -(-len(self) // most) or 1
        return [(start, min(start + step, len(self))) for start in range(0, len(self), step)]

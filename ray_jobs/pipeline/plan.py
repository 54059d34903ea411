"""What is left to do, and what it is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ipsolve.runs.cells import Cell, Grid
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.stages.dispatch import Dispatch, Missing

# Batches of an actor from which on it is given one ahead. Without, it waits a third of a second for each: Ray Data
# looks every 0.1 s for what has ended, and then for what can begin. With, an actor may hold a batch at the end while
# another has none, which costs the run up to one batch in so many.
MANY_BATCHES = 24


@dataclass(frozen=True)
class Plan:
    """The missing work of a run. Make it with :meth:`of`.

    Args:
        cells: the reference cell first, where there is one.
        done: images with a result, by cell hash; ``failed``: with a failure.
        missing: indices of the images without either, by cell hash.
        seconds: measured for an image of a cell, by cell hash; cells that have not been measured are absent.
    """

    experiment: Grid
    cells: list[Cell]
    done: Mapping[str, int]
    failed: Mapping[str, int]
    missing: Mapping[str, Missing]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Grid, index: RunIndex, seconds: Mapping[str, float] | None = None) -> Plan:
        """Compare what is asked for with what the files of the run hold, as an index knows them."""
        cells = experiment.all_cells
        done, failed = index.done(cells, experiment.image_ids)
        missing = {cell.hash: _missing(experiment.ids_of(cell), done[cell.hash] | failed[cell.hash]) for cell in cells}
        n_done, n_failed = ({cell.hash: len(found[cell.hash]) for cell in cells} for found in (done, failed))
        return cls(experiment, cells, n_done, n_failed, missing, seconds or {})

    def dispatch(self, num_actors: int = 1) -> Dispatch:
        """Return the batches in the order in which so many actors should do them."""
        missing = {cell: self.missing[cell.hash] for cell in self.cells}
        seconds = {cell: self.seconds[cell.hash] for cell in self.cells if cell.hash in self.seconds}
        return Dispatch.of(missing, self.experiment.batch_size, seconds, num_actors)

    @property
    def num_batches(self) -> int:
        """Batches left to do."""
        return sum(-(-len(left) // self.experiment.batch_size) for left in self.missing.values())

    def in_flight(self, num_actors: int) -> int:
        """Return how many batches each of so many actors has: the one it works at, and in long runs the next."""
        return 2 if self.num_batches >= MANY_BATCHES * num_actors else 1

    @property
    def images_missing(self) -> int:
        """Images left to do, summed over the cells."""
        return sum(map(len, self.missing.values()))

    @property
    def images_wanted(self) -> int:
        """Images asked for, summed over the cells."""
        return sum(len(self.experiment.ids_of(cell)) for cell in self.cells)

    def expected_seconds(self, num_actors: int) -> tuple[float, list[Cell]]:
        """Return how long the measured cells will take so many actors, and the cells that have not been measured."""
        left = [cell for cell in self.cells if not cell.is_reference and len(self.missing[cell.hash])]
        work = sum(len(self.missing[cell.hash]) * self.seconds.get(cell.hash, 0.0) for cell in left)
        return work / max(num_actors, 1), [cell for cell in left if cell.hash not in self.seconds]


def _missing(ids: Sequence[str], finished: set[str]) -> Missing:
    if not finished:
        return range(len(ids))
    return np.fromiter((index for index, name in enumerate(ids) if name not in finished), np.int64)


def outcome_counts(experiment: Grid, index: RunIndex) -> tuple[int, int, int]:
    """Return how many images (over all cells but the ground truth's) are done, have failed, and are missing."""
    cells = [cell for cell in experiment.all_cells if not cell.is_reference]
    done, failed = index.done(cells, experiment.image_ids)
    n_done, n_failed = (sum(len(found[cell.hash]) for cell in cells) for found in (done, failed))
    return n_done, n_failed, sum(len(experiment.ids_of(cell)) for cell in cells) - n_done - n_failed

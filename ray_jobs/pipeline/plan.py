"""What is left to do, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ipsolve.cells import Cell, Grid
from ipsolve.results import RunFolder
from ray_jobs.pipeline.upkeep import done_images

MAX_CHUNKS = 1024


@dataclass(frozen=True)
class Plan:
    """The missing work of a run. ``batches`` are (cell hash, image indices), in the order they are handed out."""

    experiment: Grid
    cells: list[Cell]  # the reference cell first, where there is one
    done: dict[str, int]
    failed: dict[str, int]
    batches: list[tuple[str, list[int]]]

    @classmethod
    def of(cls, experiment: Grid) -> Plan:
        """Compare what is asked for with what the files of the run hold."""
        cells = experiment.all_cells
        done, failed = done_images(RunFolder(experiment.config.run_location), cells, set(experiment.image_ids))
        size = experiment.batch_size
        work = [_batches(cell, experiment.ids_of(cell), done[cell.hash] | failed[cell.hash], size) for cell in cells]
        batches = [batch for wave in zip_longest(*work) for batch in wave if batch is not None]
        n_done, n_failed = ({cell.hash: len(found[cell.hash]) for cell in cells} for found in (done, failed))
        return cls(experiment, cells, n_done, n_failed, batches)

    @property
    def images_missing(self) -> int:
        """Images left to do, summed over the cells."""
        return sum(len(indices) for _, indices in self.batches)

    @property
    def images_wanted(self) -> int:
        """Images asked for, summed over the cells."""
        return sum(len(self.experiment.ids_of(cell)) for cell in self.cells)

    def chunks(self) -> list[dict[str, str]]:
        """Return the batches as the rows of a Ray Data set, neighbours together.

        Their number is bounded, because the driver holds every row of the source of a pipeline for its whole life.
        """
        size = -(-len(self.batches) // MAX_CHUNKS) or 1
        starts = range(0, len(self.batches), size)
        return [{"batches": json.dumps(self.batches[start : start + size])} for start in starts]


def _batches(cell: Cell, ids: Sequence[str], finished: set[str], size: int) -> list[tuple[str, list[int]]]:
    missing = [index for index, name in enumerate(ids) if name not in finished]
    return [(cell.hash, list(part)) for part in _cut(missing, size)]


def _cut(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def outcome_counts(experiment: Grid) -> tuple[int, int, int]:
    """Return how many images (over all cells but the ground truth's) are done, have failed, and are missing."""
    cells = [cell for cell in experiment.all_cells if not cell.is_reference]
    done, failed = done_images(RunFolder(experiment.config.run_location), cells, set(experiment.image_ids))
    n_done, n_failed = (sum(len(found[cell.hash]) for cell in cells) for found in (done, failed))
    return n_done, n_failed, sum(len(experiment.ids_of(cell)) for cell in cells) - n_done - n_failed

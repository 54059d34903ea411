"""What is left to do, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ipsolve.experiment import Cell, Experiment
from ipsolve.results import RunFolder
from ray_jobs.pipeline.upkeep import done_images

MAX_CHUNKS = 1024


@dataclass(frozen=True)
class Plan:
    """The missing work of a run. ``batches`` are (cell hash, image indices), in the order they are handed out."""

    experiment: Experiment
    cells: list[Cell]  # the reference cell first
    done: dict[str, int]
    failed: dict[str, int]
    batches: list[tuple[str, list[int]]]

    @classmethod
    def of(cls, experiment: Experiment) -> Plan:
        """Compare what is asked for with what the files of the run hold."""
        cells = [experiment.reference_cell, *experiment.cells]
        ids = experiment.image_ids
        done, failed = done_images(RunFolder(experiment.config.run_location), cells, set(ids))
        size = experiment.config.compute.batch_size
        work = [_batches(cell, ids, done[cell.hash] | failed[cell.hash], size) for cell in cells]
        batches = [batch for wave in zip_longest(*work) for batch in wave if batch is not None]
        n_done, n_failed = ({cell.hash: len(found[cell.hash]) for cell in cells} for found in (done, failed))
        return cls(experiment, cells, n_done, n_failed, batches)

    @property
    def images_missing(self) -> int:
        """Images left to do, summed over the cells."""
        return sum(len(indices) for _, indices in self.batches)

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


def outcome_counts(experiment: Experiment, cells: Iterable[Cell]) -> tuple[int, int, int]:
    """Return how many images (over all cells but the ground truth's) are done, have failed, and are missing."""
    cells = [cell for cell in cells if not cell.is_reference]
    wanted = set(experiment.image_ids)
    done, failed = done_images(RunFolder(experiment.config.run_location), cells, wanted)
    n_done, n_failed = (sum(len(found[cell.hash]) for cell in cells) for found in (done, failed))
    return n_done, n_failed, len(cells) * len(wanted) - n_done - n_failed

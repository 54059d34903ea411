"""Running means: how the numbers of a run settle while its images come in.

A point is the mean over the images that a (task, solver) had done at a time, with the half width of its interval. It is
made when their number has grown by a twentieth, so that a curve of ten million images has 300 points, and is kept in
``curves.parquet`` of the run: what is shown live elsewhere can be shown later, the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ipsolve.runs.cells import Cell
from ipsolve.runs.results import COUNTS, RunFolder
from ipsolve.runs.statistics import Moments

CURVES = "curves.parquet"
GROWTH = 1.05
NO_SCORES = ("seconds", "noise_std", *COUNTS)  # numbers of a row that are no scores
SCHEMA = pa.schema(
    [
        pa.field("time", pa.int64(), nullable=False),  # milliseconds since 1970
        pa.field("cell", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("half_width", pa.float64()),  # of a 95% interval; null of a single image
    ]
)


class Point(NamedTuple):
    """A line of ``curves.parquet``."""

    time: int
    cell: str
    images: int
    metric: str
    mean: float
    half_width: float | None


def scores_of(rows: pa.Table) -> tuple[int, dict[str, Moments]]:
    """Return the number of images in rows of results, and the moments of their scores: an image is the mean of its
    samples, and what is not finite is left out."""
    names = [field.name for field in rows.schema if pa.types.is_floating(field.type) and field.name not in NO_SCORES]
    if not names or not len(rows):
        return 0, {}
    if pc.count_distinct(rows["image_id"]).as_py() == len(rows):  # one sample of each: nothing to average
        found = {name: Moments.of(rows[name].to_numpy()) for name in names}
        return len(rows), {name: moments for name, moments in found.items() if moments.n}
    means = rows.select(["image_id", *names]).to_pandas().groupby("image_id", sort=False)[names].mean()
    found = {name: Moments.of(means[name].astype(float)) for name in names}
    return len(means), {name: moments for name, moments in found.items() if moments.n}


class Curves:
    """The curves of the cells of a run.

    Of several seeds they follow the first: an image is counted once on their axis.

    Args:
        run: where they are kept; what is there already is gone on with.
        cells: the cells of the run.
        seed: the seed that is followed.
    """

    def __init__(self, run: RunFolder, cells: Iterable[Cell], seed: int) -> None:
        self.run = run
        self.cells = {cell.hash: cell for cell in cells if not cell.is_reference and cell.seed == seed}
        self.points = read(run)
        self._images: dict[str, int] = {}
        self._moments: dict[str, dict[str, Moments]] = {}
        self._last: dict[str, int] = {}  # images at the last point of a cell

    def begin(self, rows: pa.Table) -> None:
        """Start from what an earlier stretch has done: rows of results with their ``task``, ``solver`` and ``seed``."""
        cells = {(cell.task, cell.solver): cell for cell in self.cells.values()}
        table = rows.to_pandas()
        for pair, own in table.groupby(["task", "solver"], observed=True):
            cell = cells.get(pair)
            own = own[own["seed"] == cell.seed].drop(columns=["task", "solver"]) if cell else own[:0]
            if cell is not None and len(own):
                images, scores = scores_of(pa.Table.from_pandas(own, preserve_index=False))
                self._images[cell.hash] = self._last[cell.hash] = images
                self._moments[cell.hash] = scores

    def update(self, cell: str, images: int, scores: Mapping[str, Sequence[float]], time: int) -> None:
        """Take in a batch: how many images it has solved, and the moments of their scores."""
        if cell not in self.cells or not images:
            return
        self._images[cell] = self._images.get(cell, 0) + images
        own = self._moments.setdefault(cell, {})
        for name, (n, mean, squares) in scores.items():
            own[name] = own.get(name, Moments()).joined(Moments(int(n), mean, squares))
        if self._images[cell] >= GROWTH * self._last.get(cell, 0):
            self._point(cell, time)

    def close(self, time: int) -> None:
        """End each curve where its images do."""
        for cell, images in self._images.items():
            if images > self._last.get(cell, 0):
                self._point(cell, time)

    def _point(self, cell: str, time: int) -> None:
        images = self._last[cell] = self._images[cell]
        for name, each in self._moments[cell].items():
            width = each.half_width()
            self.points.append(Point(time, cell, images, name, each.mean, None if np.isnan(width) else width))

    def save(self) -> None:
        """Write ``curves.parquet``."""
        write(self.run, list(self.points))


def read(run: RunFolder) -> list[Point]:
    """Return the points that a run has; none where the file is absent or torn: they are a picture, not the numbers."""
    path = run.path(CURVES)
    if not run.exists(CURVES):
        return []
    try:
        with run.filesystem.open_input_file(path) as file:
            table = pq.read_table(file)
        return [Point(*row) for row in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)]
    except (pa.ArrowException, KeyError, OSError):
        return []


def write(run: RunFolder, points: Collection[Point]) -> None:
    """Write the points of a run."""
    columns = zip(*points, strict=True) if points else [[] for _ in SCHEMA]
    run.write_table(run.path(CURVES), pa.table([*map(list, columns)], schema=SCHEMA))


def latest(points: Iterable[Point]) -> dict[str, float]:
    """Return the numbers at the end of a curve, as ``summary.csv`` calls them."""
    found: dict[str, float] = {}
    for point in points:
        found |= {point.metric: point.mean, "n": point.images}
        if point.half_width is not None:
            found[f"{point.metric}_ci95"] = point.half_width
    return found

"""Image strips: truth, measurement and every reconstruction of images that a rule chose, not a person."""

from __future__ import annotations

import base64
from typing import NamedTuple

import pandas as pd

from ipsolve.metrics import METRICS
from ipsolve.report.rendering import to_png
from ipsolve.report.tables import number, with_unit
from ipsolve.report.view import RunView
from ipsolve.runs.results import REFERENCES, RESULTS
from ipsolve.runs.summary import present


class Picture(NamedTuple):
    """An image with its caption; ``source`` is a data URI, empty where there is no image."""

    name: str
    source: str
    figure: str = ""


class Strip(NamedTuple):
    """One image of one task."""

    rank: str
    image_id: str
    pictures: list[Picture]


def anchor(view: RunView) -> str:
    """Return the solver by whose results images are chosen: the baseline, or the first solver of the configuration."""
    baseline = view.config.baseline
    return baseline if baseline in view.solvers and baseline is not None else view.solvers[0]


def strips(view: RunView, task: str) -> list[Strip]:
    """Return the strips of a task: by the headline metric the best, the median and the worst of the anchor solver.

    They show the first sample of the first seed.
    """
    metric = view.headline
    if metric is None:
        return []
    seed = view.rows["seed"].min()
    own = view.rows[(view.rows["task"] == task) & (view.rows["seed"] == seed) & (view.rows["sample"] == 0)]
    chosen = choose(own[own["solver"] == anchor(view)], metric) or choose(own, metric)
    truths = _truths(view, list(chosen.values()))
    results = {solver: _pictures(view, task, solver, seed, list(chosen.values())) for solver in view.solvers}
    measurement = {
        image_id: picture["measurement"] for cell in reversed(results.values()) for image_id, picture in cell.items()
    }
    values = own.set_index(["solver", "image_id"])[metric]
    drawn = []
    for rank, image_id in chosen.items():
        pictures = [
            Picture("truth", _uri(truths.get(image_id))),
            Picture("measurement", _uri(measurement.get(image_id))),
        ]
        for solver, cell in results.items():
            value = values.get((solver, image_id))
            figure = with_unit(number(value, METRICS[metric].decimals), metric) if present(value) else "no result"
            pictures.append(Picture(solver, _uri(cell.get(image_id, {}).get("reconstruction")), figure))
        drawn.append(Strip(rank, image_id, pictures))
    return drawn


def choose(rows: pd.DataFrame, metric: str) -> dict[str, str]:
    """Return ``{rank: image_id}`` of the best, median and worst value among rows; ties go by image id."""
    order = (
        rows.dropna(subset=[metric])
        .drop_duplicates("image_id")
        .sort_values([metric, "image_id"], ascending=[not METRICS[metric].higher_is_better, True])
    )
    names = list(order["image_id"])
    if len(names) < 3:
        return dict(zip(("best", "worst") if len(names) == 2 else ("only",), names, strict=bool(names)))
    return {"best": names[0], "median": names[len(names) // 2], "worst": names[-1]}


def within(found: dict[str, list[Strip]], most: int) -> tuple[dict[str, list[Strip]], str]:
    """Return as many strips as fit on a page, and a line on those that do not: medians go first, then best ones.

    Args:
        found: the strips of each task.
        most: bytes of their images.
    """
    size = sum(len(picture.source) for drawn in found.values() for strip in drawn for picture in strip.pictures)
    gone: list[str] = []
    for rank in ("median", "best"):
        if size > most:
            gone.append(rank)
            found = {task: [strip for strip in drawn if strip.rank != rank] for task, drawn in found.items()}
            size = sum(len(picture.source) for drawn in found.values() for strip in drawn for picture in strip.pictures)
    if not gone:
        return found, ""
    return found, f"Left out, for the page to stay below {most / 1e6:.0f} MB: the {' and '.join(gone)} of each task."


def _truths(view: RunView, image_ids: list[str]) -> dict[str, bytes]:
    table = view.run.pick(["image_id", "image"], image_ids, REFERENCES)
    return dict(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True))


def _pictures(view: RunView, task: str, solver: str, seed: int, image_ids: list[str]) -> dict[str, dict[str, bytes]]:
    columns = ["image_id", "seed", "sample", "measurement", "reconstruction"]
    table = view.run.pick(columns, image_ids, RESULTS, f"task={task}", f"solver={solver}")
    return {row["image_id"]: row for row in table.to_pylist() if (row["seed"], row["sample"]) == (seed, 0)}


def _uri(stored: bytes | None) -> str:
    return "" if stored is None else "data:image/png;base64," + base64.b64encode(to_png(stored)).decode()

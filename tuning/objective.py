"""What a sweep makes best: a column of the summary, a weighted sum of columns, or two of these.

    {metric: psnr}    {metric: seconds_per_image, mode: min}    {weights: {psnr: 1, seconds_per_image: -0.1}}

An objective has a value per image, so that it has an interval, and can be had for the first images of a trial. With
several tasks it is standardised by the reference (trial 0): per image the difference to the reference's value on the
same image, divided by the standard deviation of the reference's values over the images of that task; then the mean
over the tasks. So it depends on the trial and the reference alone, and the reference itself has 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ipsolve.metrics import METRICS, SET_METRICS
from ipsolve.requests.errors import RequestError, did_you_mean
from ipsolve.runs.results import COUNTS, image_metrics

Mode = Literal["max", "min"]
Rows = Mapping[str, pd.DataFrame]  # by task, a row per image, indexed by image id


def columns() -> dict[str, str]:
    """Return what may be made best, by its name in a summary, with its column in the rows."""
    return {name: name for name in (*image_metrics(), "consistency", *COUNTS)} | {"seconds_per_image": "seconds"}


@dataclass(frozen=True)
class Objective:
    """A weighted sum of columns, to be made large or small."""

    weights: Mapping[str, float]
    mode: Mode

    @property
    def name(self) -> str:
        """The objective in words, such as ``psnr`` or ``psnr - 0.1 seconds_per_image``."""
        if list(self.weights.values()) == [1.0]:
            return next(iter(self.weights))
        words = " ".join(
            f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{abs(weight):g} '}{column}"
            for column, weight in self.weights.items()
        )
        return words.removeprefix("+ ")

    @property
    def metrics(self) -> list[str]:
        """The image metrics that have to be computed for it."""
        return [name for name in self.weights if name in METRICS]

    @property
    def sign(self) -> float:
        return 1.0 if self.mode == "max" else -1.0

    def per_image(self, rows: Rows, reference: Rows | None = None) -> pd.Series:
        """Return the value of each image, over the tasks; ``reference`` standardises."""
        values = []
        for task, own in rows.items():
            value = self._sum(own)
            if reference is not None:
                known = self._sum(reference[task])
                value = (value - known.reindex(value.index)) / _spread(known)
            values.append(value)
        return pd.concat(values, axis=1).mean(axis=1, skipna=False)

    def _sum(self, rows: pd.DataFrame) -> pd.Series:
        parts = [
            weight * rows[columns()[name]].astype(float).clip(upper=_ceiling(name))
            for name, weight in self.weights.items()
        ]
        return pd.concat(parts, axis=1).sum(axis=1, skipna=False)


def _ceiling(name: str) -> float | None:
    # an image that is reproduced exactly has an infinite PSNR, which no mean survives, and leaving it out would rank
    # the trial by its harder images alone
    return METRICS[name].exact if name in METRICS else None


def _spread(values: pd.Series) -> float:
    """Return the unit of a standardised objective: the std over images, where all are equal their size, at last 1."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return std if std > 0 and math.isfinite(std) else abs(float(values.mean())) or 1.0


def parse_objectives(config: Mapping[str, Any] | list[dict[str, Any]]) -> tuple[Objective, ...]:
    """Return the objective of a configuration, or its two; RequestError, one line, where it is wrong."""
    if isinstance(config, Mapping):
        return (_parse(config, "objective"),)
    objectives = tuple(_parse(each, f"objective.{i}") for i, each in enumerate(config))
    if objectives[0].name == objectives[1].name:
        raise RequestError("objective", f"both are {objectives[0].name}; a front needs two that differ")
    return objectives


def _parse(mapping: Mapping[str, Any], where: str) -> Objective:
    for key in mapping:
        if key not in ("metric", "mode", "weights"):
            hint = did_you_mean(str(key), ("metric", "mode", "weights"))
            raise RequestError(f"{where}.{key}", f"unknown key{hint}; allowed: metric, mode, weights")
    if ("metric" in mapping) == ("weights" in mapping):
        raise RequestError(where, "needs either metric or weights")
    if "weights" in mapping:
        return _weighted(mapping, where)
    metric = str(mapping["metric"])
    _check_column(metric, f"{where}.metric")
    natural: Mode = "max" if metric in METRICS and METRICS[metric].higher_is_better else "min"
    mode = mapping.get("mode", natural)
    if mode not in ("max", "min"):
        raise RequestError(f"{where}.mode", f"must be max or min (got {mode!r})")
    return Objective({metric: 1.0}, mode)


def _weighted(mapping: Mapping[str, Any], where: str) -> Objective:
    weights = mapping["weights"]
    if not isinstance(weights, Mapping) or not weights:
        raise RequestError(f"{where}.weights", f"must be a mapping of columns to numbers (got {weights!r})")
    if mapping.get("mode", "max") != "max":
        raise RequestError(f"{where}.mode", "a weighted sum is made large; give what should be small a negative weight")
    for name, weight in weights.items():
        _check_column(str(name), f"{where}.weights")
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight) or not weight:
            raise RequestError(f"{where}.weights.{name}", f"must be a number other than 0 (got {weight!r})")
    return Objective({str(name): float(weight) for name, weight in weights.items()}, "max")


def _check_column(name: str, where: str) -> None:
    known = columns()
    allowed = f"allowed: {', '.join(known)}"
    if name in SET_METRICS:
        raise RequestError(where, f"{name} is a distance between sets, it has no value per image; {allowed}")
    if name not in known:
        raise RequestError(where, f"unknown column {name!r}{did_you_mean(name, known)}; {allowed}")

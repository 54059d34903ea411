"""Degrade, solve and score images. Knows nothing of Ray, of files or of a run.

:func:`evaluate` does it for a problem at hand, as in a notebook; :class:`Evaluator` for the batches of a run, where a
fault stays with its image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from ipsolve.conventions import from_uint8
from ipsolve.evaluation.batch import Batch, Failure, Outcome, image_digest
from ipsolve.evaluation.isolation import Fault, isolate
from ipsolve.evaluation.pictures import encode
from ipsolve.evaluation.sampling import solve
from ipsolve.metrics import FEATURES, METRICS, FeatureExtractor, Metric
from ipsolve.operators.tasks import Task
from ipsolve.priors import Context, Prior
from ipsolve.problem import Posed, pose
from ipsolve.runs.results import reference_schema, result_schema
from ipsolve.solvers import Solver

Row = dict[str, Any]


@torch.no_grad()
def evaluate(posed: Posed, solver: Solver, metrics: Iterable[Metric], samples: int = 1) -> tuple[Tensor, pd.DataFrame]:
    """Solve a problem and score the reconstructions.

    Args:
        samples: S, of each image, each from an independent call.

    Returns:
        The reconstructions, (B, S, *image_shape), and a row for each, an image's samples one after the other: image,
        sample, the metrics by name, consistency, network calls, seconds.
    """
    repeated = posed.repeat(samples)
    rows, x_hat = _solve(repeated, solver)
    scores = score(metrics, x_hat, repeated.x)
    numbers = [{"image": i // samples, "sample": i % samples, **scores[i], **row} for i, row in enumerate(rows)]
    return x_hat.reshape(-1, samples, *x_hat.shape[1:]), pd.DataFrame(numbers)


def _solve(posed: Posed, solver: Solver) -> tuple[list[Row], Tensor]:
    solved = solve(solver, posed.problem)
    consistency = posed.consistency(solved.x).tolist()
    calls = {f"{kind}_calls": counts.tolist() for kind, counts in solved.calls.items()}
    rows = [
        {"consistency": _finite(consistency[i]), **{name: counts[i] for name, counts in calls.items()}}
        | {"seconds": solved.seconds}
        for i in range(len(solved.x))
    ]
    return rows, solved.x


def score(metrics: Iterable[Metric], x_hat: Tensor, x: Tensor) -> list[Row]:
    """Return the metrics of each image by name, None where a value is NaN."""
    rows: list[Row] = [{} for _ in x]
    for metric in metrics:
        for row, value in zip(rows, metric(x_hat, x).tolist(), strict=True):
            row[metric.name] = _finite(value)
    return rows


@dataclass(frozen=True)
class Evaluator:
    """The prior and the metrics of a run, in one process.

    Attributes:
        samples: of each image, S.
        batch_size: rows (images times samples) that are solved together.
    """

    prior: Prior
    metrics: Sequence[Metric]
    features: Sequence[FeatureExtractor]
    device: torch.device
    dtype: torch.dtype
    samples: int
    batch_size: int

    @torch.no_grad()
    def evaluate(self, batch: Batch, task: Task, solver: Solver) -> Outcome:
        """Evaluate a batch; an image with a sample that fails is a failure."""
        count, ids, notes = self.samples, batch.image_ids, list[str]()
        rows: dict[int, Row] = {}  # by number: sample j of image i is i * count + j
        estimates: dict[int, Tensor] = {}
        faults: dict[int, tuple[str, Fault]] = {}  # by image

        def solve_rows(numbers: list[int]) -> list[tuple[Row, Tensor] | Fault]:
            images = sorted({number // count for number in numbers})
            names = [ids[image] for image in images]
            posed = pose(task, self._truth(batch, images), self._prior(batch, names), batch.cell.seed, names)
            if count > 1:
                chosen = [images.index(number // count) * count + number % count for number in numbers]
                posed = posed.repeat(count).select(torch.tensor(chosen, device=self.device))
            return _reconstruct(posed, solver)

        def score_rows(numbers: list[int]) -> list[Row | Fault]:
            x_hat = torch.stack([estimates[number] for number in numbers])
            x = self._truth(batch, [number // count for number in numbers])
            return [scores | features for scores, features in
                    zip(score(self.metrics, x_hat, x), self._describe(x_hat), strict=True)]  # fmt: skip

        everything = list(range(len(ids) * count))
        step = max(self.batch_size, len(ids))  # what was read together is solved together
        for part in (everything[start : start + step] for start in range(0, len(everything), step)):
            for number, solved in zip(part, isolate(solve_rows, part, notes), strict=True):
                if isinstance(solved, Fault):
                    faults.setdefault(number // count, ("solve", solved))
                else:
                    rows[number], estimates[number] = solved
        whole = [number for number in everything if number // count not in faults]
        for part in (whole[start : start + step] for start in range(0, len(whole), step)):
            for number, scores in zip(part, isolate(score_rows, part, notes), strict=True):
                if isinstance(scores, Fault):
                    faults.setdefault(number // count, ("score", scores))
                else:
                    key = {"image_id": ids[number // count], "seed": batch.cell.seed, "sample": number % count}
                    rows[number] |= scores | key
                    if number % count:  # the samples of an image are of one measurement: its picture is kept once
                        rows[number]["measurement"] = None
        table = [rows[number] for number in whole if number // count not in faults]
        # what is registered in this process, and what the run was started with: the same unless something is unusual
        names = {*METRICS, *(metric.name for metric in self.metrics)}
        schema = result_schema(names, self._feature_columns())
        return Outcome(pa.Table.from_pylist(table, schema=schema), self._failures(batch, faults), notes)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Outcome:
        """Describe the ground truth itself by the features that reconstructions are described by."""
        notes: list[str] = []
        everything = list(range(len(batch.image_ids)))

        def describe(numbers: list[int]) -> list[Row | Fault]:
            return list(self._describe(self._truth(batch, numbers)))

        pictures = encode(_signals(batch.images))
        rows, faults = [], {}
        for i, found in zip(everything, isolate(describe, everything, notes), strict=True):
            if isinstance(found, Fault):
                faults[i] = ("score", found)
            else:
                name = batch.image_ids[i]
                words = (batch.captions.get(name), batch.negative_captions.get(name))
                own = {"image": pictures[i], "digest": image_digest(batch.images[i], *words)}
                rows.append({"image_id": name, **own, **found})
        schema = reference_schema(self._feature_columns())
        return Outcome(pa.Table.from_pylist(rows, schema=schema), self._failures(batch, faults), notes)

    def _prior(self, batch: Batch, names: Sequence[str]) -> Prior:
        """Return the prior of some images, which is told the words that they come with, if there are any."""
        words, against = (
            tuple(given.get(name) for name in names) if not given.keys().isdisjoint(names) else None
            for given in (batch.captions, batch.negative_captions)
        )
        if words is None and against is None:
            return self.prior
        return self.prior.conditioned(Context(prompt=words, negative_prompt=against))

    def _truth(self, batch: Batch, images: Sequence[int]) -> Tensor:
        # called where faults are isolated: a full device refuses a copy as well
        return _signals(batch.images[list(images)]).to(self.device, self.dtype)

    def _describe(self, x: Tensor) -> list[Row]:
        rows: list[Row] = [{} for _ in x]
        for extractor in self.features:
            for row, values in zip(rows, extractor.extract(x).cpu().half().numpy(), strict=True):
                row[extractor.column] = values
        return rows

    def _feature_columns(self) -> set[str]:
        return {FEATURES[name].column for name in FEATURES} | {each.column for each in self.features}

    def _failures(self, batch: Batch, faults: Mapping[int, tuple[str, Fault]]) -> list[Failure]:
        return [
            Failure.of(batch.cell, batch.image_ids[i], stage, fault.reason)
            for i, (stage, fault) in sorted(faults.items())
        ]


def _reconstruct(posed: Posed, solver: Solver) -> list[tuple[Row, Tensor] | Fault]:
    rows, x_hat = _solve(posed, solver)
    seen = posed.operator.as_image(posed.problem.y)
    pictures = [None] * len(rows) if seen is None else encode(seen)
    outcomes: list[tuple[Row, Tensor] | Fault] = []
    for row, x, measurement, reconstruction in zip(rows, x_hat, pictures, encode(x_hat), strict=True):
        if bad := int((~torch.isfinite(x)).sum()):
            outcomes.append(Fault(f"the reconstruction has {bad} of {x.numel()} values that are NaN or Inf"))
        else:
            outcomes.append((row | {"measurement": measurement, "reconstruction": reconstruction}, x))
    return outcomes


def _signals(images: np.ndarray[Any, Any]) -> Tensor:
    """Return what was read as x: photographs, (B, H, W, 3) uint8, in [-1, 1] channels first, all else as it is."""
    x = torch.from_numpy(np.array(images))
    return from_uint8(x.permute(0, 3, 1, 2)) if x.dtype == torch.uint8 else x


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value

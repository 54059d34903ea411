"""Degrade, solve and score one batch of images. Knows nothing of Ray or of files."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from ipsolve.conventions import from_uint8, to_uint8
from ipsolve.evaluation.isolation import Fault, isolate
from ipsolve.metrics import FEATURES, METRICS
from ipsolve.priors import MeteredPrior
from ipsolve.problem import consistency, measure
from ipsolve.randomness import image_rng
from ipsolve.runs.cells import Cell
from ipsolve.runs.experiment import image_dtype
from ipsolve.runs.results import REFERENCE_SCHEMA, RESULT_SCHEMA
from ray_jobs.pipeline.folder.batches import Failure, Outcome

if TYPE_CHECKING:
    from ray_jobs.pipeline.stages.workload import Workload

Row = dict[str, Any]


class Evaluator:
    """The prior, the metrics and the solvers of a run, in one process."""

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        self.workload = workload
        self.device = torch.device(device)
        self.dtype = image_dtype(workload.precision)
        self.prior = workload.prior.load(self.device, workload.precision)
        self.metrics = {name: METRICS[name](workload.weights) for name in workload.metrics}
        self.features = [FEATURES[name](workload.weights) for name in workload.features]

    @torch.no_grad()
    def evaluate(self, cell: Cell, image_ids: Sequence[str], images: Tensor) -> Outcome:
        """Evaluate a batch.

        Args:
            cell: what to do; the reference cell describes the images themselves.
            image_ids: B identifiers.
            images: (B, H, W, 3) uint8.
        """
        notes: list[str] = []

        def truth(rows: list[int]) -> Tensor:  # called where faults are isolated: a full device refuses a copy as well
            return from_uint8(images[rows].permute(0, 3, 1, 2)).to(self.device, self.dtype)

        def solve(rows: list[int]) -> list[tuple[Row, Tensor] | Fault]:
            return self._solve(cell, [image_ids[i] for i in rows], truth(rows))

        def score(rows: list[int]) -> list[Row | Fault]:
            x = truth(rows)
            x_hat = x if cell.is_reference else torch.stack([estimates[i] for i in rows])
            return list(self._score(x_hat, x, not cell.is_reference))

        everything = list(range(len(image_ids)))
        faults: dict[int, tuple[str, Fault]] = {}
        rows: dict[int, Row] = {}
        estimates: dict[int, Tensor] = {}
        if cell.is_reference:
            rows = {i: {"image": image} for i, image in enumerate(to_png(from_uint8(images.permute(0, 3, 1, 2))))}
        else:
            for i, solved in zip(everything, isolate(solve, everything, notes), strict=True):
                if isinstance(solved, Fault):
                    faults[i] = ("solve", solved)
                else:
                    rows[i], estimates[i] = solved
        for i, scores in zip(list(rows), isolate(score, list(rows), notes) if rows else [], strict=True):
            if isinstance(scores, Fault):
                faults[i] = ("score", scores)
            else:
                rows[i] |= scores
        table = [row | {"image_id": image_ids[i], "seed": cell.seed} for i, row in rows.items() if i not in faults]
        failures = [Failure.of(cell, image_ids[i], stage, fault.reason) for i, (stage, fault) in sorted(faults.items())]
        schema = REFERENCE_SCHEMA if cell.is_reference else RESULT_SCHEMA
        return Outcome(pa.Table.from_pylist(table, schema=schema), failures, notes)

    def _solve(self, cell: Cell, image_ids: Sequence[str], x: Tensor) -> list[tuple[Row, Tensor] | Fault]:
        spec, noise = self.workload.tasks[cell.task]
        operator, measurement = measure(spec, noise, x, cell.seed, image_ids)
        prior = MeteredPrior(self.prior, len(x))
        rng = image_rng(cell.seed, image_ids, "solver", self.device)
        self._synchronize()
        start = time.perf_counter()
        x_hat = self.workload.solvers[cell.solver].solve(measurement, operator, prior, rng)
        self._synchronize()
        seconds = (time.perf_counter() - start) / len(x)
        if x_hat.shape != x.shape:
            raise ValueError(f"solver returned {tuple(x_hat.shape)} for images of {tuple(x.shape)}")
        residuals = consistency(operator, measurement, x_hat).tolist()
        seen = operator.as_image(measurement.y)
        pictures = [None] * len(x) if seen is None else to_png(seen)
        outcomes: list[tuple[Row, Tensor] | Fault] = []
        for i, reconstruction in enumerate(to_png(x_hat)):
            if not bool(torch.isfinite(x_hat[i]).all()):
                bad = int((~torch.isfinite(x_hat[i])).sum())
                outcomes.append(Fault(f"the reconstruction has {bad} of {x_hat[i].numel()} values that are NaN or Inf"))
                continue
            calls = {f"{name}_calls": int(count[i]) for name, count in prior.counts.items()}
            row = {"seconds": seconds, "consistency": _finite(residuals[i]), "measurement": pictures[i], **calls}
            outcomes.append((row | {"reconstruction": reconstruction}, x_hat[i]))
        return outcomes

    def _score(self, x_hat: Tensor, x: Tensor, compare: bool) -> list[Row]:
        rows: list[Row] = [{} for _ in x]
        metrics = self.metrics if compare else {}
        for name, metric in metrics.items():
            for row, value in zip(rows, metric(x_hat, x).tolist(), strict=True):
                row[name] = _finite(value)
        for extractor in self.features:
            for row, values in zip(rows, extractor.extract(x_hat).cpu().half().numpy(), strict=True):
                row[extractor.column] = values
        return rows

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def to_png(images: Tensor) -> list[bytes]:
    """Encode images (B, 3, H, W) in [-1, 1] as PNG of 8 bits."""
    pixels = to_uint8(torch.nan_to_num(images.float())).permute(0, 2, 3, 1).cpu().numpy()
    files = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG", compress_level=3)
        files.append(file.getvalue())
    return files


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value

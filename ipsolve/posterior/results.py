"""The rows of a posterior run: one for each problem, solver and seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ipsolve.runs.results import count_fields

DISTANCES = ("sliced_wasserstein_1", "sliced_wasserstein_2", "mmd", "ksd", "mean_error", "covariance_error")
LEVELS = {"coverage_50": 0.50, "coverage_80": 0.80, "coverage_90": 0.90, "coverage_95": 0.95}
SAMPLE_METRICS = (*DISTANCES, *LEVELS)
NUM_SHOWN = 200  # samples kept for figures

# *_calls and seconds are of one run, means over the runs; num_samples samples come of num_runs runs; shown: the first
# two coordinates of the first NUM_SHOWN samples, one after the other
SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in SAMPLE_METRICS),
        *count_fields(pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("num_runs", pa.int64(), nullable=False),
        pa.field("noise_std", pa.float64(), nullable=False),
        pa.field("shown", pa.list_(pa.float32()), nullable=False),
    ]
)


def shown_points(flat: list[float]) -> NDArray[np.float32]:
    """Return the column ``shown`` of a row as points, (n, 2)."""
    return np.asarray(flat, np.float32).reshape(-1, 2)

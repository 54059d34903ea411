"""Many images, and many files: what the driver needs, with a solver that costs nothing.

Images are 16 x 16 PNG files of noise in Parquet, so that what is measured is not the reading of pixels. ``driver MiB``
is the largest resident memory of the driver's process when the last batch is done, ``with tables`` after the files are
in order and the tables and the report are written.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Options, Row, in_process, peak_memory_mib, say

BATCH = 16
SIZE = 16


def rows(options: Options) -> list[Row]:
    sizes = [(64, 4)] if options.quick else [(1000, 1), (10_000, 1), (100_000, 1), (10_000, 100), (10_000, 10_000)]
    table: list[Row] = []
    for images, files in sizes:
        with tempfile.TemporaryDirectory() as folder:
            # of its own: what it takes is not the driver's
            in_process(write, 1, folder=f"{folder}/images", images=images, files=files)
            table.append(in_process(measure, 1, folder=folder, images=images, files=files))
        say(" ".join(f"{name}: {value:.6g}" for name, value in table[-1].items()))
    return table


def measure(folder: str, images: int, files: int) -> Row:
    """Evaluate the images below a folder in this process."""
    os.environ.pop("RAY_ADDRESS", None)
    from benchmarks.pipeline import reports
    from ipsolve.requests.validation import build
    from ipsolve.runs.config import Config
    from ipsolve.runs.experiment import Experiment
    from ray_jobs.evaluate import evaluate

    start = time.perf_counter()
    trial = Experiment.of(build(Config, configuration(folder), "config"))
    opened = time.perf_counter()
    ends = [time.perf_counter() for _ in reports(trial)]
    pipeline = peak_memory_mib()
    evaluate(trial)
    done = time.perf_counter()
    return {
        "images": images,
        "files": files,
        "batches": len(ends),
        "open s": opened - start,
        "start-up s": ends[0] - opened,
        "batches/s": (len(ends) - 1) / (ends[-1] - ends[0]),
        "tables s": done - ends[-1],
        "driver MiB": pipeline,
        "with tables": peak_memory_mib(),
    }


def write(folder: str, images: int, files: int) -> None:
    """Write Parquet files with as many images each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.mkdir(folder)
    encoded = _encoded()
    share = images // files
    for file in range(files):
        names = [f"{file * share + i:08}" for i in range(share)]
        table = pa.table({"image_id": names, "image": [next(encoded) for _ in names]})
        pq.write_table(table, f"{folder}/{file:06}.parquet", row_group_size=1000)


def _encoded() -> Iterator[bytes]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    while True:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(file, "PNG", compress_level=0)
        yield file.getvalue()


def configuration(folder: str) -> dict[str, Any]:
    """Return an evaluation of a solver that costs next to nothing."""
    return {
        "name": "volume",
        "data": {"source": f"{folder}/images"},
        "prior": {"prior": "mixture", "image_shape": [3, SIZE, SIZE]},
        "tasks": {"denoise": {"operator": "denoising", "noise_std": 0.1}},
        "solvers": {"pinv": {"solver": "pseudo_inverse"}},
        "metrics": ["psnr"],
        "compute": {"num_actors": 2, "cpus_per_actor": 1, "gpus_per_actor": 0, "batch_size": BATCH},
        "output": folder,
    }

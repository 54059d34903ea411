"""Run folders for tests of what reads them: real files in the layout of a run, with made-up solvers."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from ipsolve.metrics import METRICS
from ipsolve.runs.results import FAILURE_SCHEMA, reference_schema, result_schema

FEATURE_DIM, INCEPTION_DIM = 16, 24  # small stand-ins for 512 and 2048
# the quality of a made-up solver: its blur in pixels, its noise on [0, 1], its cost
SOLVERS = {
    "pseudo_inverse": (1.3, 0.02, 0, 0.004),
    "tv": (1.0, 0.01, 0, 0.3),
    "ddnm": (0.9, 0.012, 20, 0.5),
    "resample": (0.8, 0.02, 665, 25.0),
    "nullspace_resample": (0.7, 0.02, 120, 0.9),
}
TASKS = {
    "sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.01},
    "inpaint_box": {"operator": "box_inpainting", "noise_std": 0.01},
}


def photographs(count: int, size: int) -> np.ndarray:
    """Return tiles of a sample photograph, (count, size, size, 3) in [0, 1], at most 49 of 64 pixels."""
    image = data.astronaut() / 255
    corners = [(r, c) for r in range(0, 512 - size, size) for c in range(0, 512 - size, size)]
    order = np.random.default_rng(0).permutation(len(corners))[:count]
    return np.stack([image[r : r + size, c : c + size] for r, c in (corners[i] for i in order)])


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((image.clip(0, 1) * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1


def features(image: np.ndarray, dim: int, size: int) -> np.ndarray:
    projection = np.random.default_rng(1).normal(size=(dim, size * size * 3)) / size
    return (projection @ image.reshape(-1)).astype(np.float16)


def write_run(
    folder: Path,
    images: int = 6,
    size: int = 64,
    solvers: tuple[str, ...] = tuple(SOLVERS),
    tasks: tuple[str, ...] = tuple(TASKS),
    seeds: tuple[int, ...] = (0,),
    samples: int = 1,
    inception: bool = False,
    edit: Callable[[dict[str, object]], dict[str, object] | None] = lambda row: row,
    **config: object,
) -> Path:
    """Write a run. ``edit`` sees every result row (with its task and solver) and returns it, or None for a failure."""
    truths = photographs(images, size)
    ids = [f"portraits/{i:05d}" for i in range(images)]
    failures: list[dict[str, object]] = []
    for task in tasks:
        for solver in solvers:
            blur, noise, calls, seconds = SOLVERS[solver]
            rows = []
            for image_id, truth in zip(ids, truths, strict=True):
                for seed, sample in itertools.product(seeds, range(samples)):
                    rng = np.random.default_rng([seed, int(image_id[-5:]), len(solver), *([sample] if sample else [])])
                    hard = 1.6 if task == "inpaint_box" else 1.0
                    x_hat = gaussian_filter(truth, (blur * hard, blur * hard, 0)) + noise * rng.normal(size=truth.shape)
                    scores = {
                        name: METRICS[name]()(as_tensor(x_hat), as_tensor(truth)).item() for name in ("psnr", "ssim")
                    }
                    row = edit(
                        {
                            **{
                                "task": task,
                                "solver": solver,
                                "image_id": image_id,
                                "seed": seed,
                                "sample": sample,
                                "lpips": None,
                                **scores,
                            },
                            "consistency": 1 + 0.1 * rng.normal(),
                            **{"denoiser_calls": calls, "denoiser_backward_calls": 0},
                            **{"decoder_calls": calls // 2, "decoder_backward_calls": calls // 4},
                            "encoder_calls": 0,
                            "seconds": seconds * (1 + 0.1 * rng.random()),
                            "measurement": png(truth[::4, ::4] if task == "sr4" else _boxed(truth)),
                            "reconstruction": png(x_hat),
                            "features": features(x_hat, FEATURE_DIM, size),
                            "inception_features": features(x_hat, INCEPTION_DIM, size) if inception else None,
                        }
                    )
                    key = {"image_id": image_id, "task": task, "solver": solver, "seed": seed}
                    if row is None:
                        failures.append({**key, "stage": "solve", "error": "the solver returned NaN at step 12 of 100"})
                    else:
                        rows.append({name: value for name, value in row.items() if name not in ("task", "solver")})
            if rows:
                place = folder / "results" / f"task={task}" / f"solver={solver}" / "cell-batch.parquet"
                _write(place, rows, result_schema())
    references = [
        {
            **{"image_id": image_id, "image": png(truth), "features": features(truth, FEATURE_DIM, size)},
            "inception_features": features(truth, INCEPTION_DIM, size) if inception else None,
        }
        for image_id, truth in zip(ids, truths, strict=True)
    ]
    _write(folder / "references" / "cell-batch.parquet", references, reference_schema())
    if failures:
        _write(folder / "failures" / "cell-batch.parquet", failures, FAILURE_SCHEMA)
    settings = {
        **{"name": folder.name, "seed": seeds[0] if len(seeds) == 1 else list(seeds), "samples": samples},
        **{
            "data": {"source": "portraits:test", "limit": images},
            "prior": {"prior": "latent", "path": "builtin:portraits-64"},
        },
        **{"tasks": {name: TASKS[name] for name in tasks}, "solvers": {name: {"solver": name} for name in solvers}},
        **{"baseline": "resample" if "resample" in solvers else None, **config},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    provenance = {
        "git": {"commit": "0123abc", "dirty": False},
        "versions": {"torch": torch.__version__},
        "devices": ["cpu"],
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def _boxed(image: np.ndarray) -> np.ndarray:
    masked, edge = image.copy(), image.shape[0] // 4
    masked[edge:-edge, edge:-edge] = 0.5
    return masked


def _write(path: Path, rows: list[dict[str, object]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)

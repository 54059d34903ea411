"""FID statistics of 50,000 feature rows: streamed moments against clean-fid's mean and covariance of the whole array.

Both read the same float32 file, which is as large as Inception features of 50,000 images. ``relative difference`` is
that of the two final Frechet distances to 10,000 other rows, each side with its own statistics and its own formula
(clean-fid: a matrix square root).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Options, Row, clock, peak_memory_mib, say
from ipsolve.metrics.distances import Gaussian, frechet_distance, moments

CHUNK = 1024
Features = NDArray[np.float32]


def rows(options: Options) -> list[Row]:
    n, dim = (2000, 256) if options.quick else (50_000, 2048)
    with tempfile.TemporaryDirectory() as folder:
        estimates, references = (str(Path(folder, f"{name}.f32")) for name in ("estimates", "references"))
        options.apart(write_features, options.threads, path=estimates, n=n, dim=dim, seed=0)
        options.apart(write_features, options.threads, path=references, n=max(n // 5, 2 * dim), dim=dim, seed=1)
        arms = {"streamed (ipsolve)": streamed, "whole array (clean-fid)": whole_array}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for number in range(options.rounds_or(3)):
            for name, arm in arms.items():
                last = number == 0  # one distance is enough: the matrix square root takes its time
                files = {"estimates": estimates, "references": references}
                run = options.apart(arm, options.threads, **files, dim=dim, distance=last)
                say(f"{name}: {run['seconds']:.1f} s, peak {run['peak MiB']:.0f} MiB")
                runs[name].append(run)
    distances = {name: runs[name][0]["distance"] for name in arms}
    ours, theirs = distances.values()
    return [
        {
            "method": name,
            "rows": f"{n} x {dim}",
            "statistics s": median(run["seconds"] for run in runs[name]),
            "peak MiB": median(run["peak MiB"] for run in runs[name]),
            "before MiB": runs[name][0]["before MiB"],
            "distance s": runs[name][0]["distance s"],
            "distance": f"{distances[name]:.8f}",
            "relative difference": abs(ours - theirs) / theirs,
            "threads": options.threads,
            "rounds": len(runs[name]),
        }
        for name in arms
    ]


def write_features(path: str, n: int, dim: int, seed: int) -> None:
    """Write n rows with a decaying spectrum and a mean away from zero, non-negative as pooled features are."""
    mixing = np.random.default_rng(7).standard_normal((64, dim), dtype=np.float32) / 8
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        for first in range(0, n, CHUNK):
            count = min(CHUNK, n - first)
            shared = rng.standard_normal((count, 64), dtype=np.float32) @ mixing
            own = rng.standard_normal((count, dim), dtype=np.float32)
            np.abs(shared + 0.3 * own + 0.02 * seed).astype(np.float32).tofile(file)


def read_chunks(path: str, dim: int) -> Iterator[Features]:
    """Yield the rows of a file a chunk at a time (not memory-mapped: mapped pages count as memory)."""
    with open(path, "rb") as file:
        while len(rows := np.fromfile(file, np.float32, CHUNK * dim)):
            yield rows.reshape(-1, dim)


def streamed(estimates: str, references: str, dim: int, distance: bool) -> dict[str, Any]:
    """Time ``ipsolve.metrics.distances``."""
    before, start = peak_memory_mib(), clock()
    p = moments(read_chunks(estimates, dim))
    seconds, peak = clock() - start, peak_memory_mib()
    assert p is not None
    answer = {"seconds": seconds, "peak MiB": peak, "before MiB": before}
    if distance:
        q = moments(read_chunks(references, dim))
        assert q is not None
        # the references' root is computed once per evaluation, however many solvers are compared with them
        answer |= _timed_distance(frechet_distance, p, q)
    return answer


def whole_array(estimates: str, references: str, dim: int, distance: bool) -> dict[str, Any]:
    """Time what ``cleanfid.fid.fid_from_feats`` does with features."""
    before, start = peak_memory_mib(), clock()
    features = np.concatenate(list(read_chunks(estimates, dim)))  # clean-fid, too, collects batches
    p = Gaussian(np.mean(features, axis=0), np.cov(features, rowvar=False))
    seconds, peak = clock() - start, peak_memory_mib()
    answer = {"seconds": seconds, "peak MiB": peak, "before MiB": before}
    if distance:
        from cleanfid import fid

        others = np.concatenate(list(read_chunks(references, dim)))
        q = Gaussian(np.mean(others, axis=0), np.cov(others, rowvar=False))
        answer |= _timed_distance(
            lambda a, b: float(fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)), p, q
        )
    return answer


def _timed_distance(distance: Any, p: Gaussian, q: Gaussian) -> dict[str, float]:
    start = clock()
    value = distance(p, q)
    return {"distance": value, "distance s": clock() - start}

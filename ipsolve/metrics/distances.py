"""Distances between sets of feature vectors: Frechet from streamed moments, and the unbiased kernel distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.citation import Citation
from ipsolve.metrics.base import SET_METRICS, Rows, SetMetric


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d), float64, of n feature rows."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """R, (d, rank), with R R^T = covariance. Directions within rounding of zero are left out."""
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > values.size * np.finfo(np.float64).eps * max(values[-1], 0.0)
        root: NDArray[np.float64] = vectors[:, kept] * np.sqrt(values[kept])
        return root


class MomentAccumulator:
    """Mean and covariance of rows that arrive in chunks, in float64, without keeping them.

    Chunks are combined by the pairwise update of Chan, Golub & LeVeque (1979), which does not cancel when the
    mean is far from zero; accumulators of different workers merge by the same rule.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._scatter: NDArray[np.float64] = np.zeros((0, 0))  # sum of (x - mean)(x - mean)^T

    def add(self, rows: Rows) -> None:
        """Take in rows of shape (n, d), any float type."""
        if len(rows) == 0:
            return
        centred = np.asarray(rows, dtype=np.float64)
        mean = centred.mean(0)
        centred = centred - mean
        self._combine(len(rows), mean, centred.T @ centred)

    def merge(self, other: MomentAccumulator) -> None:
        """Take in all that ``other`` has seen."""
        if other.count:
            self._combine(other.count, other._mean, other._scatter)

    def _combine(self, count: int, mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> None:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        total, shift = self.count + count, mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(shift, shift * (self.count * count / total))
        self._mean = self._mean + shift * (count / total)
        self.count = total

    def gaussian(self) -> Gaussian | None:
        """Return the mean and the unbiased covariance (n - 1, as ``numpy.cov``), or None below two rows."""
        return Gaussian(self._mean, self._scatter / (self.count - 1)) if self.count > 1 else None


def moments(chunks: Iterable[Rows]) -> Gaussian | None:
    """Return the Gaussian fitted to all rows of ``chunks``, or None if there are fewer than two."""
    accumulator = MomentAccumulator()
    for rows in chunks:
        accumulator.add(rows)
    return accumulator.gaussian()


def frechet_distance(p: Gaussian, q: Gaussian) -> float:
    """Return the squared 2-Wasserstein distance ||m_p - m_q||^2 + tr(C_p + C_q - 2 (C_p C_q)^(1/2)).

    With C = R R^T the trace of the square root is the sum of the singular values of R_p^T R_q: no matrix square
    root, no complex rounding, symmetric in its arguments, and cheap where there are fewer rows than features
    (Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6).
    """
    cross = np.linalg.svd(p.root.T @ q.root, compute_uv=False).sum() if p.root.size and q.root.size else 0.0
    shift = p.mean - q.mean
    return float(shift @ shift + np.trace(p.covariance) + np.trace(q.covariance) - 2 * cross)


def kernel_distance(
    estimates: Rows, references: Rows, seed: int = 0, subsets: int = 100, subset_size: int = 1000
) -> float:
    """Return the unbiased squared MMD with kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).

    The mean over ``subsets`` random subsets of ``subset_size`` rows (fewer if a set is smaller), as in clean-fid,
    but drawn from ``seed``; one evaluation suffices where a subset is the whole of both sets. NaN below two rows.
    """
    size = min(len(estimates), len(references), subset_size)
    if size < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    rounds = subsets if size < max(len(estimates), len(references)) else 1
    values = [
        _unbiased_mmd(
            _float64(estimates[rng.choice(len(estimates), size, replace=False)]),
            _float64(references[rng.choice(len(references), size, replace=False)]),
        )
        for _ in range(rounds)
    ]
    return float(np.mean(values))


def _float64(rows: Rows) -> NDArray[np.float64]:
    return np.asarray(rows, dtype=np.float64)


def _unbiased_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n, d = x.shape

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        value: NDArray[np.float64] = (a @ b.T / d + 1) ** 3
        return value

    within = kernel(x, x) + kernel(y, y)
    return float((within.sum() - np.trace(within)) / (n * (n - 1)) - 2 * kernel(x, y).mean())


def sample_rows(chunks: Iterable[Rows], most: int, seed: int = 0) -> Rows:
    """Return all rows of ``chunks`` in their order, of more than ``most`` a uniform sample without replacement.

    Rows keep their type (half precision on disk). Those with the smallest of n random numbers are the sample, so that
    no more than two such samples are held at once.
    """
    rng = np.random.default_rng(seed)
    kept, lots = list[Rows](), list[NDArray[np.float64]]()
    for rows in chunks:
        kept.append(rows)
        lots.append(rng.random(len(rows)))
        if sum(map(len, kept)) > 2 * most:
            kept, lots = _smallest(kept, lots, most)
    if sum(map(len, kept)) > most:
        kept, _ = _smallest(kept, lots, most)
    return np.concatenate(kept or [np.zeros((0, 1))])


def _smallest(
    kept: list[Rows], lots: list[NDArray[np.float64]], most: int
) -> tuple[list[Rows], list[NDArray[np.float64]]]:
    drawn = np.concatenate(lots)
    chosen = np.sort(np.argpartition(drawn, most)[:most])
    return [np.concatenate(kept)[chosen]], [drawn[chosen]]


class _Frechet(SetMetric):
    def reduce(self, chunks: Iterable[Rows]) -> Gaussian | None:
        return moments(chunks)

    def distance(self, estimates: Gaussian | None, references: Gaussian | None) -> float:
        if estimates is None or references is None:
            return float("nan")
        return frechet_distance(estimates, references)


HEUSEL = Citation(
    key="heusel2017fid",
    authors="Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp",
    title="GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    year=2017,
    venue="NeurIPS",
    arxiv="1706.08500",
)


@SET_METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Fid(_Frechet):
    """Frechet Inception distance in clean-fid's features (Parmar, Zhang & Zhu 2022, arXiv 2104.11222)."""

    name: ClassVar[str] = "fid"
    citation: ClassVar[Citation] = HEUSEL
    features: ClassVar[str] = "inception"
    decimals: ClassVar[int] = 2
    meaning: ClassVar[str] = "Frechet distance in clean-fid's Inception features; biased upwards where n is small"


@SET_METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FdPrior(_Frechet):
    """Frechet distance in the state space of the built-in prior; comparable only with itself."""

    name: ClassVar[str] = "fd_prior"
    citation: ClassVar[Citation] = HEUSEL
    features: ClassVar[str] = "prior"
    heading: ClassVar[str] = "FD-prior"
    meaning: ClassVar[str] = "Frechet distance in the feature space of the built-in prior"


@SET_METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Kid(SetMetric):
    """Kernel Inception distance in clean-fid's features: unbiased, hence the one to read where n is small.

    Of more images than all subsets take together a random sample of so many stands for all.

    Args:
        subsets: over which the mean is taken.
        subset_size: images of each.
    """

    name: ClassVar[str] = "kid"
    citation: ClassVar[Citation] = Citation(
        key="binkowski2018kid",
        authors="Bińkowski, Mikołaj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur",
        title="Demystifying MMD GANs",
        year=2018,
        venue="ICLR",
        arxiv="1801.01401",
    )
    features: ClassVar[str] = "inception"
    decimals: ClassVar[int] = 5
    meaning: ClassVar[str] = "kernel distance in clean-fid's Inception features, unbiased"

    subsets: Annotated[int, Field(ge=1)] = 100
    subset_size: Annotated[int, Field(ge=2)] = 1000

    def reduce(self, chunks: Iterable[Rows]) -> Rows:
        return sample_rows(chunks, self.subsets * self.subset_size)

    def distance(self, estimates: Rows, references: Rows) -> float:
        return kernel_distance(estimates, references, subsets=self.subsets, subset_size=self.subset_size)

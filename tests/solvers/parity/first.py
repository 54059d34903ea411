"""The problem on which official code of the first wave was run, and the numbers that it gave.

Everything that goes in comes from NumPy's frozen ``RandomState``, rounded to three decimals: a mixture of two Gaussians
on (3, 4, 4) images, seen by solvers as vectors of 48, two measurements, and the noise of every draw. What came out lies
in JSON beside the tests, with the repository, the commit and the command in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Prior, linear
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Level, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.randomness import ImageRng
from ipsolve.solvers import Solver

SHAPE, BATCH, M = (3, 4, 4), 2, 12
D = math.prod(SHAPE)
STD, WEIGHTS, NOISE_STD = 0.3, (0.4, 0.6), 0.05
FOLDER = Path(__file__).parent


def numbers(seed: int, *shape: int) -> Tensor:
    """Return N(0, 1) numbers, rounded so that three decimals are all of them."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).round(3))


MEANS = 0.4 * numbers(1, 2, D)
TRUTH = MEANS + STD * numbers(2, BATCH, D)
SEEN = torch.arange(1, D, 4)  # by the mask


def dense() -> Tensor:
    """Return A with singular values from 0.6 to 1.5, (M, D)."""
    return numbers(3, M, D) / math.sqrt(D)


def mask() -> Tensor:
    """Return the A that keeps one entry in four, (M, D)."""
    return torch.eye(D, dtype=torch.float64)[SEEN]


def measured(a: Tensor, noise_std: float = NOISE_STD) -> Tensor:
    """Return y of both images, (BATCH, m)."""
    return TRUTH @ a.T + noise_std * numbers(4, BATCH, len(a))


def noise(k: int, *shape: int) -> Tensor:
    """Return the k-th draw from N(0, I) of both images, (BATCH, *shape), of D entries each unless told otherwise."""
    return numbers(100 + k, BATCH, *(shape or (D,)))


def uniform(k: int, *shape: int) -> Tensor:
    """Return the k-th draw from U[0, 1) of both images, (BATCH, *shape)."""
    return torch.from_numpy(np.random.RandomState(900 + k).random_sample((BATCH, *shape)).round(3))


class Injected(ImageRng):
    """The streams of both images with the draws of this module in their place; what else is drawn is refused.

    Args:
        start: of the first draw, where the state that sampling starts from is an input too: official codes start from
            the draw itself, solvers of ours from it times this.
        order: which draw is given first, second, ... where official code draws in another order.
    """

    def __init__(self, start: float = 1.0, order: Iterable[int] | None = None) -> None:
        super().__init__(torch.arange(BATCH))
        self._order: Iterator[int] = iter(count() if order is None else order)
        self._scale, self._uniforms = 1 / start, count()

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn, self._scale = self._scale * noise(next(self._order), *shape).to(dtype), 1.0
        return drawn

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return uniform(next(self._uniforms), *shape).to(dtype)

    def _bits(self, count: int) -> Tensor:
        raise AssertionError("a draw that official code does not make")


class Mixture(MixturePrior):
    """The prior, with a closed form for what a network may have learned of its variances, and for an auto-encoder."""

    abilities = frozenset({"learned_variance"})

    def __init__(self, schedule: Schedule | None = None, latent: bool = False) -> None:
        mixture = GaussianMixture.isotropic(torch.tensor(WEIGHTS, dtype=torch.float64), MEANS, STD)
        super().__init__(mixture, (D,), schedule or linear())
        self.latent = latent

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        return self.denoise(x_t, t), (torch.sin(3 * x_t.detach()) + 1) / 2

    def encode(self, x: Tensor) -> Tensor:
        return x - 0.08 * x**3 if self.latent else x

    def decode(self, z: Tensor) -> Tensor:
        return z + 0.1 * z**3 if self.latent else z


@dataclass(frozen=True)
class Recording:
    """What official code answered: x_hat of both images for every case, and how it came about."""

    header: dict[str, Any]
    cases: dict[str, Tensor]

    @classmethod
    def of(cls, name: str) -> Recording:
        text = json.loads((FOLDER / f"{name}.json").read_text())
        cases = {case: torch.tensor(x, dtype=torch.float64) for case, x in text.pop("cases").items()}
        return cls(text, cases)


def problem(
    a: Tensor,
    prior: Prior | None = None,
    *,
    noise_std: float = NOISE_STD,
    start: Level | None = None,
    order: Iterable[int] | None = None,
) -> Problem:
    """Return the problem of A with the injected noise.

    Args:
        noise_std: 0 is told of, and is, the same y without noise.
        start, order: of :class:`Injected`; the level whose noise the first draw stands for.
    """
    y = measured(a, noise_std)
    level = torch.full((BATCH,), noise_std, dtype=torch.float64)
    rng = Injected(1.0 if start is None else start.sigma, order)
    return Problem(y, level, Matrix(a[None]), prior or Mixture(), rng)


def first_level(num_steps: int, spacing: Spacing | None = None) -> Level:
    """Return the noisiest of the levels of the linear schedule."""
    return linear().levels(num_steps, spacing)[0]


def difference(solver: Solver, posed: Problem, expected: Tensor) -> float:
    """Return the largest difference of the solver's answer from the official one, over the largest entry of that."""
    with torch.no_grad():
        answer = draw(solver, posed)[:, 0]
    found = float((answer - expected).abs().max() / expected.abs().max())
    print(f"difference {found:.1e}")
    return found

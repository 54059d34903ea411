"""DiffPIR on a circular blur against yuanzhi-zhu/DiffPIR.

Its lambda beside images in [0, 1] is four of ours; its start counts the noise of y to that of the state.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.priors import linear
from ipsolve.solvers.decoupled.diffpir import DiffPIR

from .first import NOISE_STD, SHAPE, D, Injected, Mixture, Recording, difference, measured, noise, problem

KERNEL = [(-1, -1, 0.05), (-1, 0, 0.1), (0, -1, 0.1), (0, 0, 0.5), (0, 1, 0.05), (1, 0, 0.15), (1, 1, 0.05)]
OFFICIAL = {"lambda_": 7 / 4, "zeta": 0.3, "min_noise_std": 0.002, "clip_denoised": True, "answer": "state"}
CASES = {
    "uniform": DiffPIR(**OFFICIAL, num_steps=10, timestep_spacing="trailing"),
    "quadratic": DiffPIR(**OFFICIAL, num_steps=12, skip="quadratic"),
}


def blur() -> Tensor:
    """Return A x = k * x on the torus, (D, D)."""
    images = torch.eye(D, dtype=torch.float64).reshape(D, *SHAPE)
    blurred = sum(weight * images.roll((row, column), (-2, -1)) for row, column, weight in KERNEL)
    assert isinstance(blurred, Tensor)
    return blurred.reshape(D, D).T


def start() -> Tensor:
    """Return x_T from y, taken for an image of level u, at which sigma_u / alpha_u is nearest to the noise of y."""
    levels = linear().levels(1000)[:-1]
    t, u = levels[0], min(levels, key=lambda level: abs(level.ratio - NOISE_STD))
    carried = t.alpha / u.alpha
    return carried * measured(blur()) + math.sqrt(t.sigma**2 - (carried * u.sigma) ** 2) * noise(0)


class FromY(Injected):
    """The draws of official code, of two in each step the second, after the start."""

    def __init__(self) -> None:
        super().__init__(order=range(2, 100, 2))
        self.first = start() / linear().levels(1000)[0].sigma

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn, self.first = self.first, None
        return super().normal(*shape, dtype=dtype) if drawn is None else drawn.to(dtype)


@pytest.mark.parametrize("case", CASES)
def test_diffpir_is_that_of_its_authors(case: str) -> None:
    posed = replace(problem(blur(), Mixture(linear(end_clean=False))), rng=FromY())
    assert difference(CASES[case], posed, Recording.of("diffpir").cases[case]) < 1e-5

"""MCGDiff against gabrielvc/mcg_diff: all particles, where the coordinates are freed together or not at all."""

from __future__ import annotations

import pytest
import torch

from ipsolve.priors.schedules import mcgdiff
from ipsolve.solvers.monte_carlo.mcgdiff import MCGDiff

from .first import BATCH, D, Mixture, Recording, dense, mask, problem

PARTICLES = 8
CASES = {
    "ddpm": (mask(), 0.8, MCGDiff(num_steps=10, num_particles=PARTICLES)),
    "ddim": (dense(), 0.1, MCGDiff(num_steps=12, num_particles=PARTICLES, eta=0.6, kappa=1e-2)),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_mcgdiff_is_that_of_its_authors(case: str) -> None:
    a, noise_std, solver = CASES[case]
    found = solver.solve(problem(a, Mixture(mcgdiff()), noise_std=noise_std)).x
    expected = Recording.of("mcgdiff").cases[case].reshape(BATCH, PARTICLES, D)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()

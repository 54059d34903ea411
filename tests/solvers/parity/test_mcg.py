"""MCG against HJ-harry/MCG_diffusion."""

from __future__ import annotations

import pytest

from ipsolve.solvers.guidance.mcg import MCG

from .first import Recording, difference, first_level, mask, problem

GRID = {"num_steps": 6, "timestep_spacing": "linspace", "measurement_level": "current"}
CASES = {"plain": MCG(**GRID), "clipped": MCG(**GRID, clip_denoised=True)}


@pytest.mark.parametrize("case", CASES)
def test_mcg_is_that_of_its_authors(case: str) -> None:
    posed = problem(mask(), noise_std=0.0, start=first_level(6, "linspace"))
    assert difference(CASES[case], posed, Recording.of("mcg").cases[case]) < 1e-5

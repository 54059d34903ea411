"""ILVR against jychoi118/ilvr_adm, with phi = A^+ A in the place of its resizers."""

from __future__ import annotations

import pytest

from ipsolve.solvers.projection.ilvr import ILVR

from .first import Recording, dense, difference, first_level, problem

GRID = {"num_steps": 6, "timestep_spacing": "linspace", "reference_level": "current"}
CASES = {"all but the last step": ILVR(**GRID, range_t=0), "official": ILVR(**GRID, range_t=2, clip_denoised=True)}


@pytest.mark.parametrize("case", CASES)
def test_ilvr_is_that_of_its_authors(case: str) -> None:
    # of the last steps, which are free, the code draws no reference
    posed = problem(dense(), noise_std=0.0, start=first_level(6, "linspace"))
    assert difference(CASES[case], posed, Recording.of("ilvr").cases[case]) < 1e-5

"""DDRM against bahjat-kawar/ddrm."""

from __future__ import annotations

import pytest

from ipsolve.solvers.projection.ddrm import DDRM

from .first import Recording, dense, difference, problem

CASES = {
    "default": (0.05, DDRM(num_steps=5, strict=True, unit_start=True)),
    "mixed": (0.2, DDRM(num_steps=5, eta=0.7, eta_b=0.6, eta_c=0.9, strict=True, unit_start=True)),
    "noiseless": (0.0, DDRM(num_steps=5, strict=True, unit_start=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_ddrm_is_that_of_its_authors(case: str) -> None:
    noise_std, solver = CASES[case]
    assert difference(solver, problem(dense(), noise_std=noise_std), Recording.of("ddrm").cases[case]) < 1e-5

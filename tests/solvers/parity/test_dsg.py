"""DSG against LingxiaoYang2023/DSG2024."""

from __future__ import annotations

import pytest

from ipsolve.solvers.guidance.dsg import DSG

from .first import Recording, dense, difference, first_level, problem

GRID = {"num_steps": 6, "timestep_spacing": "linspace"}
CASES = {
    "every step": DSG(**GRID, guidance_rate=0.2),
    "every other step": DSG(**GRID, guidance_rate=0.1, eta=0.5, interval=2, clip_denoised=True),
}


@pytest.mark.parametrize("case", CASES)
def test_dsg_is_that_of_its_authors(case: str) -> None:
    posed = problem(dense(), start=first_level(6, "linspace"))
    assert difference(CASES[case], posed, Recording.of("dsg").cases[case]) < 1e-5

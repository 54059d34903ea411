"""DMPS against mengxiangming/dmps."""

from __future__ import annotations

import pytest

from ipsolve.solvers.explicit.dmps import DMPS

from .first import Recording, dense, difference, first_level, problem

GRID = {"num_steps": 10, "timestep_spacing": "linspace", "score_at": "next"}
CASES = {
    "plain": (0.05, DMPS(**GRID, guidance_scale=1.0)),
    "official": (0.2, DMPS(**GRID, clip_denoised=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_dmps_is_that_of_its_authors(case: str) -> None:
    noise_std, solver = CASES[case]
    posed = problem(dense(), noise_std=noise_std, start=first_level(10, "linspace"))
    assert difference(solver, posed, Recording.of("dmps").cases[case]) < 1e-5

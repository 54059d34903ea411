"""DCDP in pixels against the code of its authors. Its lr is of the mean over the measured values."""

from __future__ import annotations

import pytest

from ipsolve.solvers.decoupled.dcdp import DCDP

from .first import M, Recording, dense, difference, problem

OFFICIAL = {"num_steps": 4, "start_time": 400, "end_time": 100, "ddim_spacing": "linspace", "clip_denoised": True}
CASES = {
    "ddim": DCDP(**OFFICIAL, iterations=20, lr=3.0 / M, momentum=0.9, ddim_steps=5),
    "version 2": DCDP(**OFFICIAL, iterations=10, lr=6.0 / M, momentum=0.5, ddim_steps=1),
}


@pytest.mark.parametrize("case", CASES)
def test_dcdp_is_that_of_its_authors(case: str) -> None:
    assert difference(CASES[case], problem(dense()), Recording.of("dcdp").cases[case]) < 1e-5

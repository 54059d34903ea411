"""DDS against HJ-harry/DDS."""

from __future__ import annotations

import pytest

from ipsolve.solvers.projection.dds import DDS

from .first import NOISE_STD, Recording, dense, difference, first_level, problem

CASES = {
    "noisy": (NOISE_STD, DDS(num_steps=10, renoise_last=False)),
    "noisy, heavy": (NOISE_STD, DDS(num_steps=10, renoise_last=False, gamma=5.0, cg_steps=3, eta=0.3)),
    "noiseless": (0.0, DDS(num_steps=10, renoise_last=False)),
}


@pytest.mark.parametrize("case", CASES)
def test_dds_is_that_of_its_authors(case: str) -> None:
    noise_std, solver = CASES[case]
    posed = problem(dense(), noise_std=noise_std, start=first_level(10))
    assert difference(solver, posed, Recording.of("dds").cases[case]) < 1e-5

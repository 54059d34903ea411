"""DDNM against wyhuai/DDNM. What its code does with noisy measurements is another rule: docs/parity.md."""

from __future__ import annotations

import pytest

from ipsolve.solvers.projection.ddnm import DDNM

from .first import Recording, dense, difference, first_level, problem

CASES = {"default": DDNM(num_steps=10), "nearly deterministic": DDNM(num_steps=10, eta=0.2)}


@pytest.mark.parametrize("case", CASES)
def test_ddnm_is_that_of_its_authors(case: str) -> None:
    posed = problem(dense(), noise_std=0.0, start=first_level(10))
    assert difference(CASES[case], posed, Recording.of("ddnm").cases[case]) < 1e-5

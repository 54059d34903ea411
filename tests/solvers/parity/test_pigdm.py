"""PiGDM against NVlabs/RED-diff, where its authors have it."""

from __future__ import annotations

import pytest

from ipsolve.solvers.guidance.pigdm import PiGDM

from .first import Recording, dense, difference, problem

CASES = {
    "ddpm": PiGDM(num_steps=10, start=0.6),
    "ddim": PiGDM(num_steps=10, start=0.6, eta=0.3, guidance_weight=0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_pigdm_is_that_of_its_authors(case: str) -> None:
    assert difference(CASES[case], problem(dense(), noise_std=0.0), Recording.of("pigdm").cases[case]) < 1e-5

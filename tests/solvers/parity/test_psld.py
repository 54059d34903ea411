"""PSLD against LituRout/PSLD, with the adjoint for its ``transpose`` and no noise on the predicted measurement."""

from __future__ import annotations

import pytest

from ipsolve.priors import scaled_linear
from ipsolve.solvers.guidance.psld import PSLD

from .first import Mixture, Recording, dense, difference, problem

SCHEDULE = scaled_linear(0.0015, 0.0195)
CASES = {
    "ddim": PSLD(num_steps=10),
    "ddpm": PSLD(num_steps=10, eta=1.0, measurement_weight=0.9, gluing_weight=0.3),
}


@pytest.mark.parametrize("case", CASES)
def test_psld_is_that_of_its_authors(case: str) -> None:
    posed = problem(dense(), Mixture(SCHEDULE, latent=True), start=SCHEDULE.levels(10)[0])
    assert difference(CASES[case], posed, Recording.of("psld").cases[case]) < 1e-5

"""SITCOM against sjames40/SITCOM. Of its Adam steps the last is not looked at: K there is K - 1 here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ipsolve.solvers.decoupled.sitcom import SITCOM

from .first import BATCH, Recording, dense, difference, first_level, problem

CASES = {
    "stops": (0.05, SITCOM(num_steps=5, iterations=39, lr=0.05, stop="before", clip=True)),
    "never stops": (0.0, SITCOM(num_steps=5, iterations=11, lr=0.02, stop="before", clip=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_sitcom_is_that_of_its_authors(case: str) -> None:
    told, solver = CASES[case]  # y has the same noise in both, but of a noise of 0 a fit never is enough
    posed = problem(dense(), start=first_level(5))
    posed = replace(posed, noise_std=torch.full((BATCH,), told, dtype=torch.float64))
    assert difference(solver, posed, Recording.of("sitcom").cases[case]) < 1e-5

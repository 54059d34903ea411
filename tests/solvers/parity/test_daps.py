"""DAPS against zhangbingliang2019/DAPS.

N of its levels are N of N + 1 nodes, and its lr falls over N + 1: both are settings of ours.
"""

from __future__ import annotations

import pytest

from ipsolve.priors.schedules import Edm
from ipsolve.solvers.decoupled.daps import DAPS

from .first import Mixture, Recording, dense, difference, problem

N = 6
LAST = Edm(0.1, 100.0).levels(N + 1)[N - 1].sigma  # of the N + 1 nodes, the last is left out
SETTINGS = {"num_steps": N, "sigma_max": 100.0, "sigma_min": LAST, "ode_end": "state", "limit_lr": False}
CASES = {
    "langevin": DAPS(**SETTINGS, langevin_steps=4, lr=1e-5, lr_min_ratio=1 - 0.99 * N / (N + 1), tau=0.01),
    "hamiltonian": DAPS(**SETTINGS, langevin_steps=3, lr=1e-3, lr_min_ratio=1.0, tau=0.1, momentum=0.9, ode_steps=2),
}


@pytest.mark.parametrize("case", CASES)
def test_daps_is_that_of_its_authors(case: str) -> None:
    posed = problem(dense(), Mixture(Edm(0.002, 200.0)))
    assert difference(CASES[case], posed, Recording.of("daps").cases[case]) < 1e-5

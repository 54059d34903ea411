"""RED-diff against NVlabs/RED-diff."""

from __future__ import annotations

import pytest

from ipsolve.solvers.variational.red_diff import REDDiff

from .first import Recording, dense, difference, problem

CASES = {"default": REDDiff(num_steps=10), "large": REDDiff(num_steps=10, lr=0.5, lambda_=1.0)}


@pytest.mark.parametrize("case", CASES)
def test_red_diff_is_that_of_its_authors(case: str) -> None:
    # the code draws twice in a step: first for the jitter of mu
    posed = problem(dense(), noise_std=0.0, order=range(1, 20, 2))
    assert difference(CASES[case], posed, Recording.of("red_diff").cases[case]) < 1e-5

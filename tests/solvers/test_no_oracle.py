"""Nothing that sees the truth chooses an answer: a solver is not even given it."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from ipsolve.problem import Measurement
from ipsolve.solvers import SOLVERS


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_sees_the_measurement_only(name: str) -> None:
    given = list(inspect.signature(SOLVERS[name].solve).parameters)
    assert given == ["self", "measurement", "operator", "prior", "rng"]
    assert [field.name for field in dataclasses.fields(Measurement)] == ["y", "noise_std"]

"""Nothing that sees the truth chooses an answer: a solver is not even given it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import Operator
from ipsolve.priors import Prior
from ipsolve.problem import Posed, Problem
from ipsolve.solvers import SOLVERS

from .conftest import posed

BLUR = {"operator": "motion_blur", "kernel_size": 3, "boundary": "circular", "noise_std": 0.05}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_sees_the_problem_only(name: str) -> None:
    assert list(inspect.signature(SOLVERS[name].solve).parameters) == ["self", "problem"]


def test_a_problem_is_what_was_measured_and_what_is_known() -> None:
    assert [field.name for field in dataclasses.fields(Problem)] == ["y", "noise_std", "operator", "prior", "rng"]


def reachable(thing: Any, seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """Yield all that is in the attributes and members of an object, itself first."""
    seen = {} if seen is None else seen
    if id(thing) in seen or isinstance(thing, type):
        return
    seen[id(thing)] = thing  # kept alive, so that no other gets its id
    yield thing
    if isinstance(thing, Tensor):
        return
    members = [*getattr(thing, "__dict__", {}).values()]
    members += [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
    if isinstance(thing, Mapping):
        members += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        members += thing
    for member in members:
        yield from reachable(member, seen)


def secrets(made: Posed) -> list[str]:
    """Return what of the author's knowledge can be reached from the problem: tensors by value, not by identity."""
    kernel = made.theta["kernel"]
    hidden = {"theta": kernel, "truth": made.x}
    hidden |= {
        f"operator {i}": found
        for i, found in enumerate(reachable(made.operator))
        if isinstance(found, Tensor) and found.numel() > 1
    }
    assert len(hidden) > 2, "the operator must hold something to be hidden"
    found = []
    for thing in reachable(made.problem):
        if isinstance(thing, Operator):
            found.append("operator")
        if isinstance(thing, Tensor):
            found += [
                name for name, value in hidden.items() if thing.shape == value.shape and torch.equal(thing, value)
            ]
    return found


@pytest.mark.parametrize("moved", [False, True])
def test_a_blind_problem_leads_to_nothing_of_the_operator(pixel_prior: Prior, moved: bool) -> None:
    """Nor do the parts and the copies of it that a solver makes."""
    made = posed({**BLUR, "blind": True}, pixel_prior)
    if moved:
        made = made.repeat(2).select(torch.arange(6).flip(0))
    assert secrets(made) == []
    with pytest.raises(TypeError, match="the operator is not known"):
        _ = made.problem.known_operator
    assert secrets(made) == []  # nor was it cached on the way


def test_the_walk_would_find_it(pixel_prior: Prior) -> None:
    """Where the operator is told, it, its kernel in whatever form and nothing of the truth are reached."""
    found = secrets(posed(BLUR, pixel_prior))
    assert "operator" in found
    assert any(name.startswith("operator ") for name in found)
    assert "truth" not in found
    leaking = posed({**BLUR, "blind": True}, pixel_prior)
    vars(leaking.problem.prior)["note"] = {"kernel": (leaking.theta["kernel"].clone(),)}
    try:
        assert secrets(leaking) == ["theta"]
    finally:
        del vars(leaking.problem.prior)["note"]

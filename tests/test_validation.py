"""From a mapping to an object, or one line."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from ipsolve.metrics.base import METRICS, SET_METRICS
from ipsolve.operators.base import OPERATORS
from ipsolve.operators.noise import NOISES
from ipsolve.posterior.problems import PROBLEMS
from ipsolve.priors.schedule_spec import SCHEDULES
from ipsolve.priors.spec import PRIORS
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry
from ipsolve.requests.validation import build, field_names
from ipsolve.runs.config import Compute
from ipsolve.solvers import SOLVERS
from tuning.config import Evaluation, Search, TrialCompute


@dataclass(frozen=True, config={"extra": "forbid"})
class Leaf:
    name: ClassVar[str] = "leaf"
    factor: Annotated[int, Field(ge=2, le=16)] = 4
    rate: Annotated[float, Field(gt=0)] | None = None
    pair: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise RequestError("pair must be sorted")


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    leaf: Leaf = Leaf()
    leaves: dict[str, Leaf] = {}
    path: str


def test_good_mappings_are_built() -> None:
    assert build(Leaf, {}, "a") == Leaf()
    assert build(Leaf, {"factor": 8, "rate": 1, "pair": [0, 2]}, "a") == Leaf(factor=8, rate=1.0, pair=(0.0, 2.0))
    tree = build(Tree, {"path": "x", "leaves": {"big": {"factor": 16}}}, "a")
    assert tree.leaves["big"].factor == 16


WRONG: list[tuple[type, Any, str]] = [
    (Leaf, [1], "a.b: must be a mapping of keys to values (got [1])"),
    (Leaf, {1: 2}, "a.b: keys must be words (got 1)"),
    (Leaf, {"facter": 3}, "a.b.facter: unknown key (did you mean 'factor'?); allowed: factor, rate, pair"),
    (Leaf, {"factor": -3}, "a.b.factor: must be greater than or equal to 2 (got -3)"),
    (Leaf, {"rate": -1}, "a.b.rate: must be greater than 0 (got -1)"),
    (Leaf, {"pair": [1]}, "a.b.pair.1: is required"),
    (Leaf, {"pair": [2, 1]}, "a.b: pair must be sorted"),
    (Tree, {}, "a.b.path: is required"),
    (Tree, {"pth": "x"}, "a.b.pth: unknown key (did you mean 'path'?); allowed: leaf, leaves, path"),
    (Tree, {"path": "x", "leaf": {"factor": 1}}, "a.b.leaf.factor: must be greater than or equal to 2 (got 1)"),
    (
        Tree,
        {"path": "x", "leaves": {"big": {"fctor": 1}}},
        "a.b.leaves.big.fctor: unknown key (did you mean 'factor'?); allowed: factor, rate, pair",
    ),
]


def test_an_error_carries_its_key_and_its_reason_through_a_pickle() -> None:
    with pytest.raises(RequestError) as caught:
        build(Tree, {"path": "x", "leaf": {"factor": 1}}, "a")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.key, error.reason) == ("a.leaf.factor", "must be greater than or equal to 2 (got 1)")
    assert str(error) == f"{error.key}: {error.reason}" == str(caught.value)
    alone = RequestError("which configuration?")
    assert (alone.key, alone.reason, str(alone)) == ("", "which configuration?", "which configuration?")


LEAVES: Registry[Leaf] = Registry("leaf kind")
LEAVES.register(Leaf)


@LEAVES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Needle(Leaf):
    name: ClassVar[str] = "needle"
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"fine": {"factor": 16, "rate": 2.0}}


def test_a_mapping_that_names_a_class_is_an_object_of_it() -> None:
    assert LEAVES.parse({"kind": "leaf", "factor": 8}, "a", "kind") == Leaf(factor=8)
    assert LEAVES.parse({"kind": "needle", "preset": None}, "a", "kind") == Needle()
    assert LEAVES.parse({"kind": "needle", "preset": "fine", "rate": 3}, "a", "kind") == Needle(factor=16, rate=3.0)


FIELDS = "factor, rate, pair"


@pytest.mark.parametrize(
    ("mapping", "where", "message"),
    [
        ("leaf", "a.b", "a.b: must be a mapping of keys to values (got 'leaf')"),
        ({}, "a.b", "a.b.kind: is required; allowed: leaf, needle"),
        ({"kind": None}, "", "kind: is required; allowed: leaf, needle"),
        ({"kind": "leav"}, "a", "a.kind: unknown leaf kind 'leav' (did you mean 'leaf'?); allowed: leaf, needle"),
        ({"kind": 3}, "a", "a.kind: unknown leaf kind '3'; allowed: leaf, needle"),
        ({"kind": "needle", "preset": "f"}, "a.b", "a.b.preset: unknown preset 'f'; allowed: fine"),
        ({"kind": "needle", "preset": "fin"}, "", "preset: unknown preset 'fin' (did you mean 'fine'?); allowed: fine"),
        ({"kind": "leaf", "preset": "fine"}, "a", f"a.preset: unknown key; allowed: {FIELDS}"),
        ({"kind": "leaf", "facter": 1}, "a", f"a.facter: unknown key (did you mean 'factor'?); allowed: {FIELDS}"),
    ],
)
def test_a_mapping_that_names_no_object_is_refused_in_one_line(mapping: object, where: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        LEAVES.parse(mapping, where, "kind")
    assert str(caught.value) == message


@pytest.mark.parametrize("decorator", [dataclass, dataclasses.dataclass])
def test_a_class_that_does_not_forbid_unknown_keys_has_none_either(decorator: Any) -> None:
    @decorator
    class Loose:
        factor: int = 4

    assert build(Loose, {"factor": "8"}, "a") == Loose(8)
    with pytest.raises(RequestError, match=r"^a\.facter: unknown key \(did you mean 'factor'\?\); allowed: factor$"):
        build(Loose, {"facter": 8}, "a")


def test_what_has_no_fields_is_not_registered() -> None:
    class Plain(Leaf):
        name: ClassVar[str] = "leaf"

    with pytest.raises(ValueError, match="registered twice"):
        LEAVES.register(Plain)
    with pytest.raises(TypeError, match="must be a dataclass"):
        LEAVES.register(type("Other", (), {"name": "other"}))


@pytest.mark.parametrize(("cls", "mapping", "message"), WRONG, ids=[message[:30] for *_, message in WRONG])
def test_a_fault_is_one_line_that_names_the_key(cls: type, mapping: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        build(cls, mapping, "a.b")
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["four", 4.5, None, [4], float("nan")])
def test_wrong_types_say_what_is_wanted_and_what_came(value: object) -> None:
    with pytest.raises(RequestError, match=r"^a\.factor: must be a (valid|finite) .*\(got .*\)$") as caught:
        build(Leaf, {"factor": value}, "a")
    assert repr(value) in str(caught.value)


def classes() -> list[type]:
    """Every class that a request can name and that can be made of defaults."""
    registries = (OPERATORS, NOISES, PRIORS, SCHEDULES, SOLVERS, METRICS, SET_METRICS, PROBLEMS)
    named = [registry[name] for registry in registries for name in registry]
    return [cls for cls in (*named, Compute, Search, TrialCompute, Evaluation) if _has_defaults(cls)]


def _has_defaults(cls: type) -> bool:
    try:
        build(cls, {}, "a")
    except RequestError:
        return False
    return True


def numeric_fields() -> list[tuple[type, str, bool]]:
    """Every number of every class, and whether it may be a truth value as well."""
    found = []
    for cls in classes():
        hints = get_type_hints(cls)
        for name in field_names(cls):
            kinds = {hints[name], *get_args(hints[name])}
            if kinds & {int, float}:
                found.append((cls, name, bool in kinds))
    return found


@pytest.mark.parametrize(
    ("cls", "name", "or_bool"), numeric_fields(), ids=lambda part: getattr(part, "__name__", str(part))
)
def test_no_number_of_any_class_may_be_without_use(cls: type, name: str, or_bool: bool) -> None:
    """Not finite, beyond float32, or a truth value; in quotes and as YAML reads 1e300, too."""
    infinite = [math.nan, math.inf, -math.inf, "nan", "inf", "-inf"]
    beyond = [1e300, -1e300, "1e300", 1e-300, 10**31, 10**400]
    for value in [*infinite, *beyond, *([] if or_bool else [True])]:
        with pytest.raises(RequestError, match=rf"\Aa(\.{name}: |: [^\n]*\b{name}\b)[^\n]+\Z"):
            build(cls, {name: value}, "a")

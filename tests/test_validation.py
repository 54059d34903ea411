"""From a mapping to an object, or one line."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build


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

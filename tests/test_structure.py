"""The house: what may import what. Read from the imports themselves, wherever in a file they stand."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# each line may import from itself and from the lines above it; what stands in one line does not know of its neighbours
LAYERS = [
    ["ipsolve.conventions", "ipsolve.randomness", "ipsolve.citation", "ipsolve.requests", "ipsolve.signal"],
    ["ipsolve.linalg", "ipsolve.files"],
    ["ipsolve.operators", "ipsolve.priors", "ipsolve.datasets"],
    ["ipsolve.problem", "ipsolve.metrics", "ipsolve.learning"],
    ["ipsolve.solvers"],
    ["ipsolve.runs"],
    ["ipsolve.evaluation", "ipsolve.report"],
    ["ipsolve.posterior"],
    ["ray_jobs"],
    ["tuning"],
]
UNITS = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}


def sources(*packages: str) -> dict[str, Path]:
    """Return the files of packages by the names of their modules."""
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = sources("ipsolve", "ray_jobs", "tuning")


def imports(path: Path, at_start: bool = False) -> set[str]:
    """Return the modules that a file imports; ``at_start``: only those that are imported when it is."""
    found = set[str]()
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_start else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() if whole & MODULES.keys() else {node.module}
    return found


def unit_of(module: str) -> str | None:
    """Return the part of the house that a module belongs to; None for the package ``ipsolve`` itself."""
    return next((unit for unit in UNITS if module == unit or module.startswith(f"{unit}.")), None)


def test_every_module_has_its_place() -> None:
    assert {module for module in MODULES if unit_of(module) is None} == {"ipsolve"}


@pytest.mark.parametrize("unit", UNITS)
def test_arrows_point_one_way(unit: str) -> None:
    wrong = [
        f"{module} -> {other}"
        for module, path in MODULES.items()
        if unit_of(module) == unit
        for other in imports(path)
        if (target := unit_of(other)) is not None and target != unit and UNITS[target] >= UNITS[unit]
    ]
    assert wrong == []


def test_no_circle() -> None:
    graph = {module: imports(path, at_start=True) & MODULES.keys() - {module} for module, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_solvers_are_in_the_folders_of_their_families() -> None:
    from ipsolve.solvers import SOLVERS

    for name in SOLVERS:
        module = SOLVERS[name].__module__.split(".")
        assert module[:2] == ["ipsolve", "solvers"]
        assert len(module) == 4
        assert SOLVERS[name].family == module[2].replace("_", " ")


def test_the_walk_is_short_and_leads_through_what_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len(re.findall(r"^\d+\. ", text, re.M)) <= 12
    named = re.findall(r"`([\w.]+)`\s+\(([\w/]+\.py)\)", text)
    assert len(named) >= 12
    for name, file in named:
        *outer, last = name.split(".")
        code = (ROOT / file).read_text()
        assert all(f"class {part}" in code for part in outer), (name, file)
        assert re.search(rf"^\s*(?:def|class) {last}\b", code, re.M), (name, file)


def test_the_drawing_of_the_house_is_of_this_house() -> None:
    drawing = re.search(r"## The house\n.*?```\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]  # type: ignore[index]
    assert len(drawing.splitlines()) <= 20
    folders = set(re.findall(r"(\w+/)", drawing))
    found = {f"{path.name}/" for package in ("ipsolve", "ray_jobs", "tuning") for path in (ROOT / package).rglob("*")}
    assert folders <= found | {"ipsolve/", "ray_jobs/", "tuning/"}
    wanted = {path.name for path in (ROOT / "ipsolve").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert {f"{name}/" for name in wanted} <= folders

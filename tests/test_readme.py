"""What the README says is there is there, and its example runs as it is printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ipsolve.metrics import METRICS, SET_METRICS
from ipsolve.operators import NOISES, OPERATORS
from ipsolve.priors import PRIORS
from ipsolve.runs.results import FAILURES, REFERENCES, RESULTS
from ipsolve.solvers import SOLVERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE = re.search(r"```python\n(.*?)```", README, re.S)[1]  # type: ignore[index]
TESTS = re.findall(r"`(tests/\S+\.py)::(\w+)`", README)


@pytest.fixture(scope="module")
def tables() -> set[str]:
    """The names in the first and second columns of the tables under 'What there is'."""
    section = README.split("## What there is")[1].split("\n## ")[0]
    return {name for line in section.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+)`", line)}


@pytest.mark.parametrize(
    "registry", [SOLVERS, OPERATORS, NOISES, PRIORS, METRICS, SET_METRICS], ids=lambda registry: registry.kind
)
def test_everything_registered_is_in_a_table(tables: set[str], registry: object) -> None:
    assert set(registry) - tables == set()  # type: ignore[call-overload]


def test_the_tables_name_nothing_that_is_not_there(tables: set[str]) -> None:
    presets = {preset for name in SOLVERS for preset in SOLVERS[name].PRESETS}
    there = {*SOLVERS, *OPERATORS, *NOISES, *PRIORS, *METRICS, *SET_METRICS, *presets}
    assert tables - there == set()


@pytest.mark.parametrize(("path", "name"), TESTS, ids=[name for _, name in TESTS])
def test_every_promise_names_a_test(path: str, name: str) -> None:
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def test_commands_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}: " in makefile for target in re.findall(r"^make (\w+)", README, re.M))
    modules = re.findall(r"python -m (ray_jobs\.\w+)", README)
    assert len(modules) >= 4
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    assert [name for name in re.findall(r"configs/\S+\.yaml", README) if not (ROOT / name).is_file()] == []
    assert all(f"`{folder}/" in README for folder in (RESULTS, FAILURES, REFERENCES))


def test_the_example_is_short_in_the_house_style_and_solves_a_portrait(tmp_path: Path) -> None:
    assert len(EXAMPLE.splitlines()) <= 40
    script = tmp_path / "sdedit.py"
    script.write_text(EXAMPLE)
    for words in (["check"], ["format", "--check"]):
        style = [sys.executable, "-m", "ruff", *words, "--config", str(ROOT / "pyproject.toml"), str(script)]
        done = subprocess.run(style, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, script.name]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    pseudo_inverse, sdedit = map(float, re.findall(r"([\d.]+) dB", done.stdout))
    assert sdedit > pseudo_inverse + 2.2  # in the test of this image it is 3 dB and more

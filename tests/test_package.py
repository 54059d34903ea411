"""What holds for the tree as a whole: how it imports, and what is committed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_BYTES = 25_000_000
MAX_LINES = 300
REGISTRY_HOST = re.compile(
    rb"--(extra-)?index-url\b|pypi\.org|pythonhosted\.org|download\.pytorch\.org/whl|registry = \"http|https?://\S+/simple\b"
)

IMPORT_WITHOUT = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import ipsolve
for module in pkgutil.walk_packages(ipsolve.__path__, "ipsolve."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is, or would be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_library_imports_without_the_extras():
    absent = ["ray", "mlflow", "cleanfid", "lpips", "optuna", "rich", "datasets", "deepinv", "skimage", "sklearn"]
    absent += ["transformers"]
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, *absent], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "ipsolve.solvers.base" in run.stdout.split()


def test_every_directory_of_the_library_is_a_package(files):
    # one without __init__.py would import here, and be skipped by the walk above
    folders = {path.parent for path in files if path.suffix == ".py" and path.is_relative_to(ROOT / "ipsolve")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_file_is_large(files):
    assert [str(path) for path in files if path.stat().st_size > MAX_BYTES] == []


def test_no_module_is_long(files):
    lengths = {str(path): len(path.read_text().splitlines()) for path in files if path.suffix == ".py"}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_registry_host_is_named(files):
    assert [str(path) for path in files if REGISTRY_HOST.search(path.read_bytes())] == []


def test_no_lock_file_that_names_its_registry(files):
    assert [path for path in files if path.name == "uv.lock"] == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_exactly(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ; .+)?$", line)] == []


def test_every_dependency_is_pinned():
    def normalised(requirement: str) -> str:
        return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normalised(line) for line in project["dependencies"]}
    wanted |= {normalised(line) for extra in ("jobs", "hf") for line in project["optional-dependencies"][extra]}
    pinned = {normalised(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert wanted <= pinned


def test_links_between_documents_lead_somewhere(files):
    links = [
        (page, target)
        for page in files
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target
    ]
    assert [(str(page), target) for page, target in links if not (page.parent / target).exists()] == []
    assert links

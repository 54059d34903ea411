"""Where the numbers of a run come from: code, versions, machine, time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ipsolve import __version__
from ipsolve.conventions import UNITS
from ipsolve.runs.cells import Grid
from ipsolve.runs.results import RunFolder

PACKAGES = (
    "torch",
    "diffusers",
    "numpy",
    "scipy",
    "pyarrow",
    "ray",
    "mlflow",
    "lpips",
    "clean-fid",
    "pillow",
)


def read(run: RunFolder, note: Callable[[list[str]], None]) -> dict[str, Any]:
    """Return the provenance of a run so far, ``{}`` if it has none; ``note`` is told if it is lost."""
    found = run.read_json("provenance.json")
    if not found and run.exists("provenance.json"):
        note(["provenance.json cannot be read, as after a power cut: how earlier rows were computed is lost"])
    return found


def describe(experiment: Grid, actors: str, before: dict[str, Any] | None = None, work: bool = True) -> dict[str, Any]:
    """Return what is known when a run starts.

    Args:
        actors: the actors, in words.
        before: the provenance of the earlier stretches of work on the same run; kept under ``earlier``.
        work: whether there is work to do; without it the provenance stays that of the rows there are.
    """
    if before and not work and before["end"]:
        return before
    earlier = [*before.pop("earlier", []), before] if before else []
    job = _job()
    dirty = _git("status", "--porcelain")
    return {
        "ipsolve": __version__,
        "git_commit": _git("rev-parse", "HEAD") or job.get("git_commit"),
        "git_dirty": None if dirty is None else bool(dirty),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or [platform.machine()],
        "actors": actors,
        "units": UNITS,
        **experiment.origin(),
        "cells": {cell.hash: str(cell) for cell in experiment.all_cells},
        "ray_job_id": ray_job(),
        "start": now(),
        "end": None,
        "earlier": earlier,
    }


def same_images(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two sources hold the same images, as far as what was recorded of them can tell.

    A digest is of the names and sizes of all files of a source, whichever stretch of it a run does. A source with
    another number of images is one that has grown, and nothing can be said. The digests of Hugging Face's data sets
    are fingerprints of its package, which are others in another version of it.
    """
    if mine.get("kind") == "hf" or any(mine.get(key) != other.get(key) for key in ("kind", "n")):
        return True
    return bool(mine.get("digest") == other.get("digest"))


def changed_images(experiment: Grid, before: Mapping[str, Any]) -> list[str]:
    """Return a line if the images are others than those that rows of this run were made of, by its provenance."""
    cells, data = {cell.hash for cell in experiment.all_cells}, experiment.origin().get("data", {})
    for each in (before, *before.get("earlier", [])):
        if cells & each.get("cells", {}).keys() and not same_images(data, each.get("data", {})):
            return [
                f"the images of data.source have changed since {each['start']}: as many files, but other names or "
                "sizes; rows that were solved before are of the old images, a run of another name solves all anew"
            ]
    return []


def ray_job() -> str | None:
    """Return the submission id of the Ray job this is, None outside of one."""
    return _job().get("job_submission_id")


def _job() -> dict[str, str]:
    """Return the metadata of the Ray job this is: its id, and what was submitted with it, such as the commit."""
    described: dict[str, dict[str, str] | None] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return described.get("metadata") or {}


def now() -> str:
    """Return the time, UTC, to the millisecond: it has to be no earlier than what was done before it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

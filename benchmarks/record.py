"""What is kept of a benchmark: a JSON file with where its figures come from, and a table in the documentation."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, cores

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "ray", "clean-fid")


def environment() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": names,
            "load": round(os.getloadavg()[0], 2),  # of the last minute: whether the machine was quiet
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def _cpu() -> str:
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return model[1].strip() if model else platform.machine()


def provenance(record: dict[str, Any]) -> str:
    """Return the line that stands under a table."""
    machine = record["machine"]
    where = ", ".join([machine["cpu"], f"{machine['cores']} cores", *machine["gpus"]])
    versions = record["versions"]
    return (
        f"`{record['command']}`, {record['date'][:10]}, {record['seconds']:.0f} s; {where}, load at the start "
        f"{machine['load']}; Python {versions['python']}, torch {versions['torch']}"
    )


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, a column for each key in order of first appearance; numbers to 3 digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(folder: Path, record: dict[str, Any]) -> Path:
    """Write the JSON file of a benchmark and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def publish(page: Path, record: dict[str, Any]) -> None:
    """Put the table of a benchmark between its two markers of a Markdown page; at the end if it has none."""
    start, end = (f"<!-- {mark} of {record['name']}: written by python -m benchmarks -->" for mark in ("table", "end"))
    section = f"{start}\n{table(record['rows'])}\n\n{provenance(record)}\n{end}"
    text = page.read_text() if page.exists() else ""
    before, found, rest = text.partition(start)
    after = rest.partition(end)[2] if found else ""
    page.write_text(f"{before}{section}{after}" if found else f"{text}\n{section}\n")

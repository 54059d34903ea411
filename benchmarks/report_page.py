"""How long a large report takes to open in Chromium: ``python -m benchmarks.report_page [SOLVERS] [TASKS]``.

The rows are made up; the page has all that a page of a run has.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.browser import Browser
from ipsolve.report import build_report
from tests import synthetic_run


def main(solvers: int, tasks: int) -> None:
    """Print how long the page of so many solvers and tasks takes to build and to open."""
    kinds = list(synthetic_run.SOLVERS.values())
    synthetic_run.SOLVERS = {f"solver_{i}": kinds[i % len(kinds)] for i in range(solvers)}
    given = synthetic_run.TASKS["sr4"]
    synthetic_run.TASKS = {f"task_{i}": given for i in range(tasks)}
    registered = {name: {"solver": "tv"} for name in synthetic_run.SOLVERS}
    with tempfile.TemporaryDirectory() as folder:
        names = {"solvers": tuple(synthetic_run.SOLVERS), "tasks": tuple(synthetic_run.TASKS)}
        run = synthetic_run.write_run(Path(folder, "large"), images=4, **names)
        config = (run / "config.yaml").read_text()
        for name in registered:
            config = config.replace(f"solver: {name}\n", "solver: tv\n")
        (run / "config.yaml").write_text(config.replace("baseline: null", "baseline: solver_0"))
        begun = time.monotonic()
        page = Path(build_report(str(run)))
        size, made = page.stat().st_size / 1e6, time.monotonic() - begun
        print(f"{solvers} solvers by {tasks} tasks: {size:.1f} MB, {made:.0f} s to make")
        with Browser() as browser:
            browser.open("about:blank#warm")
            times = [browser.open(page.as_uri()) for _ in range(5)]
            begun = time.monotonic()
            browser.press("/")
            browser.press("7")
            browser.run("document.body.offsetHeight")
            typed = time.monotonic() - begun
        spread = f"median of 5, {min(times):.2f} to {max(times):.2f}"
        print(f"opened in {statistics.median(times):.2f} s ({spread}), filtered in {typed:.2f} s")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3] or ("40", "12")))

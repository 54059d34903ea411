"""A part that another package registers is a part like any other: it is parsed, listed, run and reported.

In processes of their own, because registering is for good: see :mod:`tests.outside_package`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pds
import pytest
import yaml

pytestmark = pytest.mark.xdist_group("ray, too")

ROOT = Path(__file__).parents[1]
PARTS = ("columns", "uniform", "white", "shrink", "power", "gap")

CHECK = """
from ipsolve.metrics import Asked, Weights
from ipsolve.operators import parse_task
from ipsolve.priors import prior_spec
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import image_metrics, reference_schema, result_schema
from ipsolve.runs.summary import summary_columns
from ipsolve.solvers import parse_solver
before = result_schema().names
import tests.outside_package as outside
from ray_jobs.pipeline.listing import list_registered

task = parse_task({"operator": "outside_columns", "noise": "outside_uniform", "width": 0.3})
assert (task.operator, task.noise) == (outside.ColumnsSpec(), outside.Uniform(0.3))
assert prior_spec({"prior": "outside_white", "size": 8}) == outside.WhiteSpec(8)
assert parse_solver({"solver": "outside_shrink", "factor": 0.5}) == outside.Shrink(0.5)
asked = Asked.of([{"metric": "outside_power", "power": 2}, {"metric": "outside_gap", "scale": 3}], Weights())
assert asked == Asked({"outside_power": outside.Power(2.0)}, {"outside_gap": outside.Gap(3.0)},
                      {"outside_thumbnail": outside.Thumbnail()})
assert asked.identity == {"outside_power.power": 2.0}
try:
    parse_solver({"solver": "outside_shrink", "facter": 0.5}, "solvers.a")
except RequestError as error:
    assert (error.key, error.reason) == ("solvers.a.facter", "unknown key (did you mean 'factor'?); allowed: factor")
else:
    raise AssertionError
assert set(result_schema().names) - set(before) == {"outside_power", "outside_thumbnails"}
assert "outside_thumbnails" in reference_schema().names
assert image_metrics() == ("psnr", "ssim", "lpips", "outside_power")
assert {"outside_power", "outside_power_ci95", "outside_gap"} <= set(summary_columns())
print(list_registered())
"""
RUN = "import sys, tests.outside_package; from ray_jobs.evaluate import main; sys.exit(main(sys.argv[1:]))"


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_it_is_parsed_listed_and_has_its_columns() -> None:
    done = run_python(CHECK)
    assert done.returncode == 0, done.stderr
    for part in PARTS:
        assert f"  outside_{part} " in done.stdout


def request_of(output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "outside",
        "data": {"source": "portraits:test", "limit": 3},
        "prior": {"prior": "outside_white"},
        "tasks": {"columns": {"operator": "outside_columns", "noise": "outside_uniform", "width": 0.2}},
        "solvers": {name: {"solver": "outside_shrink", "factor": factor} for name, factor in (("a", 1.0), ("b", 0.5))},
        "baseline": "a",
        "samples": 2,
        "metrics": [{"metric": "outside_power", "power": 2}, "ssim", {"metric": "outside_gap", "scale": 10}],
        "headline": "outside_power",
        "compute": {"batch_size": 2, "num_actors": 1},
        "output": str(output),
        **changes,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("outside")
    (output / "request.yaml").write_text(yaml.safe_dump(request_of(output)))
    done = run_python(RUN, str(output / "request.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    return output / "outside"


def test_its_rows_are_in_the_results(run: Path) -> None:
    rows = pds.dataset(run / "results", format="parquet", partitioning="hive").to_table().to_pandas()
    assert len(rows) == 2 * 3 * 2  # solvers, images, samples
    assert not rows.duplicated(["solver", "image_id", "seed", "sample"]).any()
    assert set(rows["sample"]) == {0, 1}
    assert set(rows["denoiser_calls"]) == {1}
    for _, samples in rows.groupby(["solver", "image_id"]):
        assert samples["outside_power"].nunique() == samples["reconstruction"].nunique() == 2
        assert samples["measurement"].nunique() == 1
    assert {len(each) for each in rows["outside_thumbnails"]} == {12}


def test_its_numbers_are_in_the_tables_and_it_heads_the_report(run: Path) -> None:
    rows = pds.dataset(run / "results", format="parquet", partitioning="hive").to_table().to_pandas()
    truths = pds.dataset(run / "references", format="parquet").to_table().to_pandas()
    summary = pd.read_csv(run / "summary.csv").set_index("solver")
    means = rows.groupby(["solver", "image_id"])["outside_power"].mean()
    for solver in "ab":
        own = rows[rows["solver"] == solver]
        assert summary.loc[solver, "n"] == 3
        assert summary.loc[solver, "outside_power"] == pytest.approx(means[solver].mean())
        shift = np.mean(np.stack(own["outside_thumbnails"]).astype(float), 0)
        shift -= np.mean(np.stack(truths["outside_thumbnails"]).astype(float), 0)
        assert summary.loc[solver, "outside_gap"] == pytest.approx(10 * np.linalg.norm(shift))
    differences = pd.read_csv(run / "comparisons.csv").set_index("metric")
    assert differences.loc["outside_power", "difference"] == pytest.approx((means["b"] - means["a"]).mean())
    page = (run / "report.html").read_text()
    assert (run / "figures" / "forest_outside_power.svg").exists()
    best = summary["outside_power"].idxmin()
    figure = f"{summary.loc[best, 'outside_power']:.3f} ± {summary.loc[best, 'outside_power_ci95']:.3f} u over 3 images"
    for words in (f"best OUTSIDE_POWER, {figure}", "OUTSIDE_POWER ↓", "thumbnail gap ↓", "2 samples of each image"):
        assert words in page


def test_the_same_request_again_has_nothing_to_do(run: Path) -> None:
    done = run_python(RUN, str(run.parent / "request.yaml"), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nwork     0 of " in done.stdout

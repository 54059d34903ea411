"""The notebooks run from the first cell to the last, and are committed without what they print."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ipsolve.report import open_run
from ipsolve.runs.front import costs_of, front
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import write_summary
from ray_jobs import track
from ray_jobs.pipeline.folder import provenance
from tests.synthetic_run import write_run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SOLVERS = ("tv", "resample", "nullspace_resample")
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def execute(name: str) -> tuple[str, int]:
    """Run a notebook in a fresh kernel; return all text it printed or returned, and the number of its figures."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(
        notebook, timeout=240, startup_timeout=240, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
    return "\n".join(text), sum("image/png" in output.get("data", {}) for output in outputs)


def test_compare_methods_shows_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(row: dict[str, object]) -> dict[str, object] | None:
        return None if (row["solver"], row["image_id"]) == ("tv", "portraits/00001") else row

    settings = {"compute": {"precision": "float32"}, "tracking": {"uri": None, "experiment": "ipsolve"}}
    run = RunFolder(write_run(tmp_path / "small", images=3, size=32, solvers=SOLVERS, edit=broken, **settings))
    run.write_json("provenance.json", {"end": provenance.now()})
    summary = write_summary(run, baseline="resample").summary
    place, sent = track.send(run)
    assert sent, place
    monkeypatch.setenv("IPSOLVE_RUN", run.root)
    text, figures = execute("compare_methods.ipynb")
    assert figures == 3
    best = summary.set_index(["task", "solver"]).loc[("sr4", "nullspace_resample")]
    assert f"{best['psnr']:.2f} ± {best['psnr_ci95']:.2f}" in text
    assert "the solver returned NaN at step 12 of 100" in text  # the failure of tv
    assert f"{best['psnr']:.6f}" in text  # as MLflow has it


def test_one_image_goes_through_the_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPSOLVE_STEPS", "16")
    text, figures = execute("one_image.ipynb")
    assert figures == 4
    assert "16 denoiser calls; announced: 16 denoiser" in text
    after = float(text.split("after ")[1].split()[0])
    assert after < 1e-5


def test_choose_a_method_runs_what_fits_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPSOLVE_IMAGES", "2")
    monkeypatch.setenv("IPSOLVE_OUTPUT", str(tmp_path))
    text, figures = execute("choose_a_method.ipynb")
    assert figures == 1
    assert "red_diff: 3002 calls, left out: over the budget of 150" in text
    view = open_run(str(tmp_path / "choose-a-method"))
    assert "red_diff" not in view.solvers
    standings = front(view.pairs, costs_of(view.rows), "task", "psnr", 150)
    best = [each.solver for each in standings if each.place == "front"][-1]
    assert f"within 150 calls: {best}" in text


@pytest.mark.parametrize("name", NAMES)
def test_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 30

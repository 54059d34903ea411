"""What is refused before anything starts, and that what is shipped is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipsolve.errors import RequestError
from ipsolve.solvers import SOLVERS
from ray_jobs import cli
from tests.tuning.small_sweeps import draw_images, mapping, sweep
from tuning.outcome import tuned_solvers
from tuning.request import Sweep, load_sweep, published

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "tuning" / "spaces").glob("*.yaml"))
FRONT = [{"metric": "psnr"}, {"metric": "seconds_per_image"}]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rungs": ({"search": {"rungs": [4, 4]}}, "search.rungs: must be increasing (got [4, 4])"),
    "too few images": ({"search": {"rungs": [4, 16]}}, "search.rungs: the last is 16, and data has 8 images"),
    "unknown metric": (
        {"objective": {"metric": "psrn"}},
        "objective.metric: unknown column 'psrn' (did you mean 'psnr'",
    ),
    "set metric": ({"objective": {"metric": "fid"}}, "objective.metric: fid is a distance between sets"),
    "no metric": ({"objective": {"mode": "max"}}, "objective: needs either metric or weights"),
    "mode": ({"objective": {"metric": "psnr", "mode": "up"}}, "objective.mode: must be max or min (got 'up')"),
    "weight": ({"objective": {"weights": {"psnr": 0}}}, "objective.weights.psnr: must be a number other than 0"),
    "twice the same": ({"objective": [{"metric": "psnr"}] * 2}, "objective: both are psnr"),
    "asha for a front": (
        {"objective": FRONT, "search": {"rungs": [2], "scheduler": "asha"}},
        "search.scheduler: two objectives have no single order to stop by; allowed: none",
    ),
    "no weights of lpips": ({"objective": {"metric": "lpips"}}, "objective: lpips cannot be computed here: "),
    "no noise": (
        {"objective": {"metric": "consistency"}, "tasks": {"a": {"operator": "denoising", "noise_std": 0}}},
        "objective: consistency is in units of the noise, and tasks.a has none",
    ),
    "test split": ({"data": {"source": "portraits:test", "limit": 8}}, "data.source: portraits:test is a test split"),
    "same images": (
        {"data": {"source": "portraits:val"}, "evaluate": {"data": {"source": "portraits:val"}, "metrics": ["psnr"]}},
        "data.source: portraits:val is what evaluate.data reports on",
    ),
    "nothing to evaluate": ({"evaluate": {"data": {}}}, "evaluate.data.source: is required"),
    "baseline": (
        {"evaluate": {"data": {"source": "portraits:test"}, "baseline": {"solver": "tvv"}}},
        "evaluate.baseline.solver: unknown solver 'tvv' (did you mean 'tv'",
    ),
    "solver": (
        {"solver": {"solver": "pseudo_inverse", "damping": 1}},
        "solver.damping: unknown key; allowed: signal_std",
    ),
    "remote": ({"output": "s3://bucket/runs"}, "output: a sweep keeps its study in SQLite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_one_line(tmp_path: Path, name: str) -> None:
    changes, expected = WRONG[name]
    with pytest.raises(RequestError) as caught:
        sweep(tmp_path, **changes)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_the_command_answers_with_one_line_and_exit_code_2_and_with_a_plan(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path)))
    line = [sys.executable, "-m", "tuning.sweep", str(config)]
    wrong = subprocess.Popen([*line, "spaec.x=1"], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    plan = subprocess.Popen([*line, "--dry-run", "search.num_trials=3"], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    out, err = wrong.communicate(timeout=120)
    assert (wrong.returncode, out) == (cli.WRONG_REQUEST, "")
    assert err.startswith("error: config.spaec: unknown key (did you mean 'space'?)")
    assert err.count("\n") == 1
    out, err = plan.communicate(timeout=120)
    assert (plan.returncode, err) == (0, "")
    for words in (
        "tpe, 3 trials",
        "asha, best 1/2 go on; reports after 2, 4, 8 images",
        "{log: [0.02, 2]}; trial 0: 0.3",
    ):
        assert words in out
    assert not (tmp_path / "small").exists()


def test_what_is_evaluated_may_be_another_part_of_the_same_kind(tmp_path: Path) -> None:
    other = draw_images(tmp_path / "others", 3)
    trial = sweep(tmp_path, evaluate={"data": {"source": str(other)}, "metrics": ["psnr"]})
    assert trial.evaluation({}).data == {"source": str(other)}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_that_is_shipped_is_valid_and_leads_to_an_evaluation(path: Path, tmp_path: Path) -> None:
    trial = Sweep.of(load_sweep(path, [f"output={tmp_path}"]))
    best = trial.evaluation({"tuned": trial.fields(trial.reference)})
    assert trial.config.data["source"] == "portraits:val"
    assert best.data["source"] == "portraits:test"
    assert list(best.solvers) == ["tuned", best.baseline] == ["tuned", "published"]


def test_there_is_a_space_for_every_solver_of_the_foundation() -> None:
    searched = {load_sweep(path, []).solver["solver"] for path in SPACES}
    assert searched >= {"tv", "ddnm", "latent_dps", "psld", "resample", "nullspace_resample"}


def test_the_published_settings_are_the_preset_of_that_name_or_the_defaults() -> None:
    assert published(SOLVERS["nullspace_resample"]) == {"solver": "nullspace_resample", "preset": "published"}
    assert published(SOLVERS["resample"]) == {"solver": "resample"}  # its defaults are its official settings


def test_nothing_tuned_without_a_best(tmp_path: Path) -> None:
    assert tuned_solvers(sweep(tmp_path), []) == {}

"""What is refused before anything starts, and that what is shipped is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ipsolve.requests.errors import RequestError
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
        "data: image portraits/val/000000 is one that evaluate.data reports on; allowed: two sets",
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
    "source to evaluate": (
        {"evaluate": {"data": {"source": "nowhere"}, "metrics": ["psnr"]}},
        "evaluate.data.source: nowhere does not exist",
    ),
    "key of the data to evaluate": (
        {"evaluate": {"data": {"source": "portraits:test", "limt": 2}, "metrics": ["psnr"]}},
        "evaluate.data.limt: unknown key (did you mean 'limit'?)",
    ),
    "metrics to evaluate": (
        {"evaluate": {"data": {"source": "portraits:test", "limit": 2}, "metrics": ["psrn"]}},
        "evaluate.metrics: unknown metric 'psrn' (did you mean 'psnr'?)",
    ),
    "setting of a metric to evaluate": (
        {"evaluate": {"data": {"source": "portraits:test", "limit": 2}, "metrics": [{"metric": "kid", "subset": 3}]}},
        "evaluate.metrics.0.subset: unknown key (did you mean 'subsets'?); allowed: subsets, subset_size",
    ),
    "headline to evaluate": (
        {"evaluate": {"data": {"source": "portraits:test", "limit": 2}, "metrics": ["ssim"], "headline": "psnr"}},
        "evaluate.headline: no metric of images that is asked for: 'psnr'; allowed: ssim",
    ),
    "baseline for another prior": (
        {"evaluate": {"data": {"source": "portraits:test", "limit": 2}, "baseline": {"solver": "psld"}}},
        "evaluate.baseline on tasks.denoise: solver psld needs a latent prior",
    ),
    "solver for another prior": (
        {"solver": {"solver": "psld"}, "space": {"eta": {"float": [0, 1]}}},
        "solver on tasks.denoise: solver psld needs a latent prior",
    ),
    "one option for another prior": (
        {"solver": {"solver": "mpgd"}, "space": {"manifold": {"choice": ["z", "ae"]}}},
        "space.manifold: ae on tasks.denoise: solver mpgd with manifold 'ae' needs a latent prior",
    ),
    "a long name": ({"name": "a" * 124}, "name: must have at most 123 characters, because best.yaml adds -best"),
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
    assert err.startswith("error: spaec: unknown key (did you mean 'space'?)")
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
    other = tmp_path / "others"
    tiles_of(other)
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


def test_the_longest_name_leads_to_an_evaluation(tmp_path: Path) -> None:
    trial = sweep(tmp_path, name="a" * 123)
    assert trial.evaluation({}).name == "a" * 123 + "-best"


def to_parquet(images: Path, file: Path) -> str:
    """Write images into a Parquet file, under other names."""
    content = [path.read_bytes() for path in sorted(images.iterdir())]
    pq.write_table(pa.table({"image_id": [f"row {i}" for i in range(len(content))], "image": content}), file)
    return str(file)


def tiles_of(folder: Path) -> None:
    """Write two photographs of four tiles each."""
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_images_that_choose_are_not_those_that_report_however_they_are_named(tmp_path: Path) -> None:
    folder = draw_images(tmp_path / "images")
    copy = shutil.copytree(folder, tmp_path / "copy")
    tiles_of(tmp_path / "photographs")
    search = {"num_trials": 2, "rungs": [2]}
    all_ = {"search": {"num_trials": 2, "rungs": [8]}, "data": {"source": str(folder)}}
    half = {"search": search, "data": {"source": str(folder), "limit": 4}}
    overlapping: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (half, {"source": str(folder), "offset": 3}, "image 3.png is one that evaluate.data reports on;"),
        (half, {"source": f"{folder}/[0-1].png"}, "image 0.png is"),
        (half, {"source": f"{tmp_path}/im*/2.png"}, "image 2.png is one that evaluate.data reports on as images/2.png"),
        (all_, {"source": to_parquet(folder, tmp_path / "a.parquet")}, "reports on as row 0"),
        (all_, {"source": str(copy), "offset": 7}, "image 7.png is"),
        (
            {"search": search, "data": {"source": str(tmp_path / "photographs"), "tile": 16, "limit": 4}},
            {"source": str(tmp_path / "photographs")},
            "image 0.png@01-01 is one that evaluate.data reports on as 0.png",
        ),
    ]
    for changes, evaluated, expected in overlapping:
        with pytest.raises(RequestError) as caught:
            sweep(tmp_path, **changes, evaluate={"data": evaluated, "metrics": ["psnr"]})
        assert str(caught.value).startswith("data: image "), evaluated
        assert expected in str(caught.value), evaluated


def test_parts_of_one_source_without_an_image_in_common_are_accepted(tmp_path: Path) -> None:
    folder = draw_images(tmp_path / "images")
    tiles_of(tmp_path / "photographs")
    photographs = str(tmp_path / "photographs")
    search = {"num_trials": 2, "rungs": [2]}
    apart = [
        ({"source": str(folder), "limit": 4}, {"source": str(folder), "offset": 4}),
        ({"source": str(folder), "limit": 4}, {"source": f"{folder}/[4-7].png"}),
        ({"source": photographs, "tile": 16, "limit": 4}, {"source": photographs, "tile": 16, "offset": 4}),
        ({"source": "portraits:val", "limit": 4}, {"source": "portraits:val", "offset": 4}),
    ]
    for data, evaluated in apart:
        sweep(tmp_path, data=data, search=search, evaluate={"data": evaluated, "metrics": ["psnr"]})


def test_the_space_of_the_flagship_searches_all_that_papers_pick_by_hand() -> None:
    mine = [path for path in SPACES if path.stem.startswith("nullspace")]
    searched = {field for path in mine for field in load_sweep(path, []).space}
    assert searched >= {
        "num_steps",
        "gamma",
        "projection_interval",
        "phase_boundaries",
        "phase_order",
        "guidance_scale",
        "latent_lr",
        "stop_threshold",
    }

"""Gray images, complex images, volumes and videos from a file to rows, report and MLflow."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ipsolve.datasets import open_source
from ipsolve.report import open_run, write_report
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ipsolve.signal import Signal
from ray_jobs import cli, track
from ray_jobs.evaluate import main as evaluate
from ray_jobs.pipeline.folder import provenance
from tests.ray_jobs.small_runs import do, experiment

SHAPES = {"gray": (1, 28, 28), "complex": (2, 64, 64), "volume": (16, 32, 32), "video": (8, 3, 32, 32)}
METRICS = {kind: ["psnr"] if kind == "complex" else ["psnr", "ssim"] for kind in SHAPES}
# of the pictures that the report shows: panels side by side, a pixel apart
PICTURES = {"gray": (28, 28), "complex": (64, 129), "volume": (32, 98), "video": (32, 8 * 33 - 1)}


def request_of(folder: Path, kind: str) -> dict[str, Any]:
    """Write three signals of a kind into a file; return what is asked of them."""
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(0).uniform(-0.7, 0.7, (3, *SHAPES[kind]))
    np.save(folder / "x.npy", x.astype(np.float32))
    return {
        "data": {"source": str(folder / "x.npy")},
        "prior": {"prior": "mixture", "image_shape": list(SHAPES[kind]), "spread": 0.2, "std": 0.4},
        "tasks": {"inpaint": {"operator": "random_inpainting", "drop_rate": 0.4, "noise_std": 0.1}},
        "solvers": {"pinv": {"solver": "pseudo_inverse"}, "ddnm": {"solver": "ddnm", "num_steps": 20}},
        "metrics": METRICS[kind],
        "baseline": "pinv",
    }


def stored(content: bytes) -> np.ndarray[Any, Any]:
    """Return a signal of a row, in [-1, 1]."""
    if content.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(content), allow_pickle=False)  # type: ignore[no-any-return]
    return np.asarray(Image.open(io.BytesIO(content)), np.float64)[None] / 65535 * 2 - 1


@pytest.mark.parametrize("kind", SHAPES)
def test_a_signal_goes_from_its_file_to_rows_report_and_mlflow(tmp_path: Path, kind: str) -> None:
    trial = experiment(tmp_path / "runs", **request_of(tmp_path / "data", kind))
    assert do(trial).images_missing == 3 * 3
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    run.write_json("provenance.json", {**trial.origin(), "end": provenance.now()})
    rows = run.results().to_pandas()
    truths = run.references().to_pandas().set_index("image_id")["image"]
    assert len(rows) == 2 * 3
    assert rows[METRICS[kind]].notna().all().all()
    for row in rows.to_dict("records"):
        x, x_hat = stored(truths[row["image_id"]]), stored(row["reconstruction"])
        assert x.shape == x_hat.shape == SHAPES[kind]
        mse = np.mean((np.clip(x_hat, -1, 1) - np.clip(x, -1, 1)) ** 2) / 4
        assert row["psnr"] == pytest.approx(-10 * np.log10(mse), abs=0.02)
    means = rows.groupby("solver")["psnr"].mean()
    page = Path(write_report(open_run(run))).read_text()
    pictures = [Image.open(io.BytesIO(base64.b64decode(each)))
                for each in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)]  # fmt: skip
    assert len(pictures) == 3 * 4  # three ranks: truth, measurement, two solvers
    assert {(picture.height, picture.width) for picture in pictures} == {PICTURES[kind]}
    address, sent = track.send(run)
    assert sent, address
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    logged = mlflow.search_runs(experiment_names=["ipsolve"])
    children = logged[logged["tags.solver"].notna()].set_index("tags.solver")
    assert children["metrics.psnr"].to_dict() == pytest.approx(means.to_dict())


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["gray", "complex"])
def test_the_precision_of_networks_changes_nothing_where_there_are_none(
    tmp_path: Path, kind: str, precision: str
) -> None:
    tables = []
    for each in ("float32", precision):
        request = request_of(tmp_path / "data", kind) | {"compute": {"precision": each}}
        trial = experiment(tmp_path / each, **request)
        do(trial)
        rows = RunFolder(trial.config.run_location).results(["solver", "image_id", "psnr"]).to_pandas()
        tables.append(rows.sort_values(["solver", "image_id"], ignore_index=True))
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-4)


def task(**words: Any) -> dict[str, Any]:
    return {"tasks": {"t": words}}


def prior(*shape: int) -> dict[str, Any]:
    return {"prior": {"prior": "mixture", "image_shape": list(shape)}}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "ssim": ("complex", {"metrics": ["ssim"]}, "ssim is of values between black and white"),
    "features": ("gray", {"metrics": ["fd_prior"]}, "metrics: fd_prior: .* is for rgb images, not for gray signals"),
    "jpeg": ("gray", task(operator="jpeg"), r"tasks\.t: jpeg is not for gray signals; allowed: rgb"),
    "blur": ("video", task(operator="gaussian_blur"), r"tasks\.t: gaussian_blur is not for video signals"),
    "frequencies": ("volume", task(operator="fourier_sampling"), "allowed: complex"),
    "counts": ("complex", task(operator="denoising", noise="shot"), r"tasks\.t: noise: shot is of intensities"),
    "tv": ("volume", {"solvers": {"tv": {"solver": "tv"}}, "baseline": None}, "solver tv is for images"),
    "shape": ("gray", prior(28, 28), r"image_shape: no signal has the shape \[28, 28\]"),
    "vector": ("gray", prior(28), r"vectors are for python -m ray_jobs\.posterior"),
    "portraits": ("gray", {"data": {"source": "portraits:test"}}, "rgb photographs, and the prior is of gray signals"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_a_signal_is_refused_in_one_line_before_anything_starts(tmp_path: Path, name: str) -> None:
    kind, changes, message = REFUSED[name]
    with pytest.raises(RequestError, match=message) as caught:
        experiment(tmp_path / "runs", **(request_of(tmp_path / "data", kind) | changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_signal_of_the_wrong_shape_is_a_failure_of_its_own(tmp_path: Path) -> None:
    request = request_of(tmp_path / "data", "volume")
    np.save(tmp_path / "data" / "y.npy", np.zeros((16, 32, 31)))
    trial = experiment(tmp_path / "runs", **(request | {"data": {"source": str(tmp_path / "data")}}))
    do(trial)
    run = RunFolder(trial.config.run_location)
    failures = run.failures().to_pylist()
    assert {(row["image_id"], row["stage"]) for row in failures} == {("y.npy", "read")}
    assert "an array of shape [16, 32, 31], and the prior is of [16, 32, 32]" in failures[0]["error"]
    assert len(run.results(["image_id"])) == 2 * 3


@pytest.mark.xdist_group("ray")
def test_the_command_does_a_volume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    request = request_of(tmp_path / "data", "volume")
    config = tmp_path / "volume.yaml"
    common = {"name": "volume", "compute": {"batch_size": 2, "num_actors": 1}, "output": str(tmp_path / "runs")}
    config.write_text(yaml.safe_dump({**common, **request}, sort_keys=False))
    assert evaluate([str(config)]) == cli.COMPLETE
    assert "3 images of" in (printed := capfd.readouterr().out)
    assert "at 16 x 32 x 32, volume" in printed
    run = RunFolder(tmp_path / "runs" / "volume")
    assert run.exists("report.html")
    assert len(run.results(["image_id"])) == 6
    source = open_source(request["data"], None, Signal.of(SHAPES["volume"]))
    assert sorted(set(run.results(["image_id"])["image_id"].to_pylist())) == source.image_ids([0, 1, 2])

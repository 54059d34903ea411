"""The evaluation job on a real local Ray: complete runs, deaths, and the same numbers whatever happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from mlflow import MlflowClient
from PIL import Image

from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.evaluate import evaluate
from tests.ray_jobs.small_runs import close, do, experiment, mapping, rows

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray")]

ROOT = Path(__file__).parents[2]


def wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_nothing_listens_beyond_loopback() -> None:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [
        (each.name(), link.laddr.ip) for each in family for link in each.net_connections() if link.status == "LISTEN"
    ]
    assert {name for name, _ in found} >= {"gcs_server", "raylet"}
    assert [(name, ip) for name, ip in found if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64  # of this process: none is left in the home directory


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = experiment(tmp_path, baseline="pinv", compute={"batch_size": 2, "num_actors": 2})
    assert evaluate(trial) == cli.COMPLETE
    printed = capsys.readouterr().out
    for line in ("10/10 images", "ddnm", "complete: 10 images", "report.html", "MLflow   sqlite:///"):
        assert line in printed.replace("15/15", "10/10")
    run = RunFolder(trial.config.run_location)
    for name in ("config.yaml", "provenance.json", "summary.csv", "comparisons.csv", "report.html", "status.json"):
        assert run.exists(name)
    status = run.read_json("status.json")
    assert (status["state"], status["exit_code"]) == ("complete", 0)
    provenance = run.read_json("provenance.json")
    assert provenance["end"] >= provenance["start"]
    assert provenance["packages"]["ray"] == ray.__version__
    resolved = Experiment.of(load_config(run.path("config.yaml")))
    assert resolved.cells == trial.cells

    alone = experiment(tmp_path / "alone")  # one process, without Ray, other batches
    do(alone)
    before = rows(trial)
    assert before == close(rows(alone))

    written = {path: os.stat(path).st_mtime_ns for path in run.files("results")}
    assert evaluate(trial) == cli.COMPLETE
    assert {path: os.stat(path).st_mtime_ns for path in run.files("results")} == written

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    tracked = client.get_experiment_by_name("ipsolve")
    found = {each.info.run_name: each for each in client.search_runs([tracked.experiment_id])}
    assert found.keys() == {"small", "sr4 / pinv", "sr4 / ddnm"}
    child = found["sr4 / ddnm"]
    assert child.data.tags["mlflow.parentRunId"] == found["small"].info.run_id
    assert (child.data.params["num_steps"], child.data.params["eta"]) == ("4", "0.85")
    assert child.data.metrics["n"] == 5
    assert found["small"].inputs.dataset_inputs[0].dataset.name == "portraits:test"
    assert {item.path for item in client.list_artifacts(found["small"].info.run_id)} > {"report.html", "summary.csv"}


def command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ray_jobs.evaluate", str(config), *words]


def test_unreadable_images_and_nan_end_in_failures_and_exit_code_3(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "c"):
        Image.new("RGB", (20, 20), "teal").save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"not an image")
    solvers = {
        "pinv": {"solver": "pseudo_inverse"},
        "diverging": {"solver": "dmps", "num_steps": 4, "guidance_scale": 1e30},
    }
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path, data={"source": str(folder)}, solvers=solvers)))
    done = subprocess.run(command(config), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == cli.SOME_IMAGES_FAILED, done.stdout + done.stderr
    assert "4 of 6 images failed" in done.stdout
    assert done.stderr == ""
    stages = {
        (row["image_id"], row["solver"]): row["stage"] for row in RunFolder(tmp_path / "small").failures().to_pylist()
    }
    assert stages == {
        ("b.png", "pinv"): "read",
        ("b.png", "diverging"): "read",
        ("a.png", "diverging"): "solve",
        ("c.png", "diverging"): "solve",
    }


@pytest.mark.slow
@pytest.mark.timeout(900)  # two starts of Ray, which a busy machine makes slow
def test_a_killed_driver_leaves_a_run_that_is_completed(tmp_path: Path) -> None:
    changes = {
        "data": {"source": "portraits:test", "limit": 12},
        "solvers": {"tv": {"solver": "tv", "num_steps": 200}},
        "compute": {"batch_size": 1, "num_actors": 2},
    }
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path, **changes)))
    run = RunFolder(tmp_path / "small")
    driver = subprocess.Popen(command(config), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(run.files("results")) >= 3, 400)
        family = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
    survived = {path: Path(path).read_bytes() for path in run.files("results")}
    assert run.read_json("status.json")["state"] == "running"
    # no orphan: the last to go are Ray's agents, which try to tell the dead head for a minute before they end
    wait_for(lambda: not any(process.is_running() for process in family), 150)

    trial = experiment(tmp_path, **changes)
    seconds = {row["image_id"]: row["seconds"] for row in run.results(["image_id", "seconds"]).to_pylist()}
    assert evaluate(trial) == cli.COMPLETE
    again = {row["image_id"]: row["seconds"] for row in run.results(["image_id", "seconds"]).to_pylist()}
    assert len(survived) >= 3
    assert again == again | seconds  # what survived was not computed again
    reference = experiment(tmp_path / "alone", **changes)
    do(reference)
    assert rows(trial) == close(rows(reference))
    assert json.loads(Path(run.path("status.json")).read_text())["state"] == "complete"

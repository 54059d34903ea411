"""A run in MLflow while it works: its curves, what becomes of it when it ends early, and that it costs nothing."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from mlflow import MlflowClient

from ipsolve.runs import curves
from ipsolve.runs.curves import Curves, scores_of
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ipsolve.runs.statistics import Moments, mean_interval
from ipsolve.runs.summary import write_summary
from ray_jobs import cli, track
from ray_jobs.evaluate import Evaluation
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Worker
from ray_jobs.pipeline.stages.workload import Workload
from ray_jobs.tracking.live import Live
from tests.ray_jobs.small_runs import experiment, index_of
from tests.ray_jobs.stores import make_store
from tests.ray_jobs.test_track import runs


def work(trial: Experiment, batches: int | None = None, error: BaseException | None = None, wait: bool = True) -> Live:
    """Do some batches as a job does them, in this process; ``error`` is raised after the last one."""
    run = RunFolder(trial.config.run_location)
    index = index_of(trial)
    plan = Plan.of(trial, index)
    before = provenance.read(run, print)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    run.write_json("provenance.json", provenance.describe(trial, "one process", before))
    followed = Curves(run, trial.all_cells, trial.config.seeds[0])
    if any(plan.done.values()):
        followed.begin(Evaluation(trial).scores(run))
    worker = Worker(Workload.of(trial))
    with Live(run, followed, plan, seconds=0.05) as live:
        for cell, indices in plan.dispatch().batches(0, batches):
            live.update(json.loads(json.dumps(worker.process(load(trial.source, cell, indices, trial.image_size)))))
        if wait:
            end = time.monotonic() + 60
            while not live.is_up_to_date:
                assert time.monotonic() < end
                time.sleep(0.02)
        if error is not None:
            raise error
    return live


def finish(trial: Experiment) -> RunFolder:
    """Write what a job writes at its end."""
    run = RunFolder(trial.config.run_location)
    run.write_json("provenance.json", run.read_json("provenance.json") | {"end": provenance.now()})
    write_summary(run)
    return run


def curve_of(store: MlflowClient, name: str, metric: str = "running/psnr") -> list[tuple[int, float]]:
    found = store.get_metric_history(runs(store)[name].info.run_id, metric)
    return sorted((point.step, point.value) for point in found)


def test_moments_of_batches_are_those_of_all() -> None:
    values = np.random.default_rng(0).normal(30, 5, size=57)
    joined = Moments()
    for part in np.split(values, [3, 4, 4, 40]):
        joined = joined.joined(Moments.of(part))
    whole = mean_interval(values)
    assert joined.n == whole.n
    assert joined.mean == pytest.approx(whole.value, rel=1e-12)
    assert joined.half_width() == pytest.approx(whole.half_width, rel=1e-12)


def test_scores_are_of_images_and_finite() -> None:
    rows = pa.table(
        {
            "image_id": ["a", "a", "b", "c"],
            "psnr": [20.0, 30.0, float("inf"), 40.0],
            "ssim": pa.array([None] * 4, pa.float64()),
            "seconds": [1.0] * 4,
        }
    )
    images, scores = scores_of(rows)
    assert images == 3
    assert scores.keys() == {"psnr"}
    assert (scores["psnr"].n, scores["psnr"].mean) == (2, pytest.approx((25 + 40) / 2))


def test_methods_converge_on_an_axis_of_images_and_the_last_point_is_the_number(tmp_path: Path) -> None:
    store, trial = make_store(tmp_path), experiment(tmp_path)
    live = work(trial)
    sent = runs(store)
    assert sent["small"].info.status == "RUNNING"
    assert {sent[f"sr4 / {name}"].info.status for name in ("pinv", "ddnm")} == {"FINISHED"}
    assert sent["sr4 / ddnm"].data.metrics["n"] == 5  # a table of running methods has its columns
    assert [step for step, _ in curve_of(store, "sr4 / ddnm")] == [2, 4, 5]
    run = finish(trial)
    assert track.send(run, live.sent)[1]
    metrics = runs(store)["sr4 / ddnm"].data.metrics
    assert curve_of(store, "sr4 / ddnm")[-1][1] == pytest.approx(metrics["psnr"], rel=1e-9)
    assert curve_of(store, "sr4 / ddnm", "running/psnr_ci95")[-1][1] == pytest.approx(metrics["psnr_ci95"], rel=1e-9)


def test_sent_later_nothing_is_left_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    dead = experiment(tmp_path / "dead", tracking={"uri": f"http://127.0.0.1:{port}"})
    begun = time.monotonic()
    work(dead, wait=False)
    assert time.monotonic() - begun < 30
    run = finish(dead)
    assert not track.send(run)[1]
    config = yaml.safe_load(run.read(run.path("config.yaml")))
    config["tracking"]["uri"] = None
    run.write(run.path("config.yaml"), yaml.safe_dump(config).encode())
    late = make_store(tmp_path / "dead")
    assert track.main([run.root]) == cli.COMPLETE
    assert [step for step, _ in curve_of(late, "sr4 / ddnm")] == [2, 4, 5]
    assert len(curve_of(late, "sr4 / pinv", "running/ssim_ci95")) == 3


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("broken"), "FAILED")])
def test_what_ends_early_is_marked_and_goes_on_in_the_same_runs(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    store, trial = make_store(tmp_path), experiment(tmp_path)
    with pytest.raises(type(error)):
        work(trial, batches=4, error=error)
    ended = runs(store)
    assert ended["small"].info.status == status
    assert {run.info.status for name, run in ended.items() if name != "small"} <= {status, "FINISHED"}
    assert status in {run.info.status for name, run in ended.items() if name != "small"}
    live = work(trial)
    run = finish(trial)
    assert track.send(run, live.sent)[1]
    later = runs(store)
    assert {name: run.info.run_id for name, run in ended.items()}.items() <= {
        name: run.info.run_id for name, run in later.items()
    }.items()
    assert {run.info.status for run in later.values()} == {"FINISHED"}
    steps = [step for step, _ in curve_of(store, "sr4 / ddnm")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5
    number = later["sr4 / ddnm"].data.metrics["psnr"]
    assert curve_of(store, "sr4 / ddnm")[-1][1] == pytest.approx(number, rel=1e-9)


def test_a_run_whose_driver_was_killed_is_marked_by_sending_it(tmp_path: Path) -> None:
    store, trial = make_store(tmp_path), experiment(tmp_path)
    with pytest.raises(ValueError, match="gone"):
        work(trial, batches=3, error=ValueError("gone"), wait=False)
    run = RunFolder(trial.config.run_location)
    run.write_json("status.json", {"state": "running", "pid": 1})  # kill -9 leaves it so
    assert track.main([run.root]) == cli.COMPLETE
    assert {run.info.status for run in runs(store).values()} == {"KILLED"}
    assert sum(len(curve_of(store, name)) for name in runs(store) if name != "small") == len(
        [point for point in curves.read(run) if point.metric == "psnr"]
    )

"""From the terminal to MLflow's page: what is printed, and what lies behind it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs import cli, track
from ray_jobs.tracking.links import SHARED, Shown, links
from tests.ray_jobs.small_runs import experiment
from tests.ray_jobs.stores import make_store
from tests.ray_jobs.test_track import finish, runs
from tests.tuning.small_sweeps import drive, sweep
from tests.tuning.test_tracking import send_all


def test_links_lead_to_the_children_of_a_run_sorted_and_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path)
    run = finish(experiment(tmp_path))
    assert track.main([run.root]) == cli.COMPLETE
    assert f"python -m ray_jobs.track {run.root} --open" in capsys.readouterr().out
    shown = Shown.of(run)
    found = dict(line.split(maxsplit=1) for line in links([shown], "http://127.0.0.1:5000"))
    key = parse_qs(found["runs"].partition("?")[2])["viewStateShareKey"][0]
    view = json.loads(store.get_experiment(shown.experiment_id).tags[f"{SHARED}{key}"])
    children = store.search_runs([shown.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"])
    assert {child.info.run_name for child in children} == {"sr4 / ddnm", "sr4 / pinv"}
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`psnr`", False)
    wanted = ["tags.`task`", "tags.`solver`", *(f"metrics.`{n}`" for n in ("psnr", "ssim", "lpips", "fid"))]
    assert view["selectedColumns"] == [*wanted, "metrics.`seconds_per_image`"]
    compared = parse_qs(urlsplit(found["compare"].replace("#/", "")).query)
    assert json.loads(compared["runs"][0]) == [child.info.run_id for child in children]
    assert len(json.dumps(view)) < 5000  # a store keeps that much of a tag


def test_images_are_artifacts_by_which_methods_are_compared_and_are_sent_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    run = finish(experiment(tmp_path))
    for _ in range(2):
        assert track.main([run.root]) == cli.COMPLETE
    sent = runs(store)
    keys = {}
    for name, each in sent.items():
        paths = [file.path for file in store.list_artifacts(each.info.run_id, "images")]
        assert each.data.tags["mlflow.loggedImages"] == "true"
        keys[name] = sorted(path.split("/")[1].split("+")[0] for path in paths if path.endswith(".png"))
    assert keys["sr4 / ddnm"] == keys["sr4 / pinv"] == ["sr4~best", "sr4~median", "sr4~worst"]
    assert len(keys["small"]) == 6  # truth and measurement
    tables = json.loads(sent["small"].data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": f"{name}.json", "type": "table"} for name in ("summary", "comparisons")]
    path = store.download_artifacts(sent["small"].info.run_id, "summary.json")
    assert len(json.loads(Path(path).read_text())["data"]) == 2


def test_a_sweep_has_links_to_its_trials(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    driven = drive(sweep(tmp_path, search={"num_trials": 2, "rungs": [2]}))
    said = send_all(driven)
    assert "--open" in said
    shown = Shown.of(driven.run, dataclasses.asdict(driven.sweep.config))
    trials = [store.get_run(run_id).info.run_name for run_id in shown.children()]
    assert sorted(trials) == ["trial 0", "trial 1"]
    state = shown.view.state
    assert "params.`signal_std`" in state["selectedColumns"]
    assert state["compareRunCharts"][0]["type"] == "PARALLEL"


def test_two_runs_are_compared_by_their_parents_and_two_stores_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path)
    found = [finish(experiment(tmp_path, name=name)) for name in ("first", "second")]
    for run in found:
        assert track.main([run.root]) == cli.COMPLETE
    shown = [Shown.of(run) for run in found]
    last = links(shown, "http://127.0.0.1:5000")[-1]
    assert all(each.parent in last for each in shown)
    make_store(tmp_path / "elsewhere")
    other = finish(experiment(tmp_path / "elsewhere"))
    assert track.main([found[0].root, other.root, "--open"]) == cli.WRONG_REQUEST
    assert "several stores" in capsys.readouterr().err


def test_what_was_never_sent_has_no_links(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(RequestError, match="is not in MLflow yet"):
        Shown.of(RunFolder(finish(experiment(tmp_path)).root))

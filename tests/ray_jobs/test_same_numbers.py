"""What may stand in one table: numbers of the same images by the same networks, and a word where that is not so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.evaluate import Evaluation
from ray_jobs.evaluate import main as evaluate
from ray_jobs.merge import main as merge
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.job import lost_with_the_cluster
from tests.metrics.test_features import inception as inception  # a fixture
from tests.ray_jobs.small_runs import ROOT, compact, do, experiment, index_of, mapping
from tests.ray_jobs.test_track import finish

PINV, DDNM = {"pinv": {"solver": "pseudo_inverse"}}, {"ddnm": {"solver": "ddnm", "num_steps": 4}}


def photographs(folder: Path, colour: str, n: int = 3, size: int = 20) -> None:
    """Make a folder ``images``: another size of the same names makes files of other sizes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index in range(n):
        Image.new("RGB", (size, size), colour).save(folder / "images" / f"{index}.png")


def joining(capsys: pytest.CaptureFixture[str], folder: Path, *runs: RunFolder) -> tuple[int, str]:
    capsys.readouterr()
    code = merge([*(run.root for run in runs), "--into", str(folder / "whole")])
    return code, capsys.readouterr().err


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("metric", "key", "values"),
    [("lpips", "lpips_net", ("alex", "vgg")), ("fid", "inception_sha256", ("0" * 64, "1" * 64))],
)
@pytest.mark.parametrize("solvers", [(PINV, PINV), (PINV, DDNM)], ids=["the same cells", "other cells"])
def test_runs_with_other_networks_are_not_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str, key: str, values: Any, solvers: Any
) -> None:
    wanted: dict[str, Any] = {"baseline": None, "metrics": ["psnr", metric]}
    runs = [
        finish(experiment(tmp_path / name, **wanted, solvers=solver, weights={key: value}))
        for name, solver, value in zip("ab", solvers, values, strict=True)
    ]
    code, error = joining(capsys, tmp_path, *runs)
    assert (code, error.count("\n")) == (cli.WRONG_REQUEST, 1)
    assert f"weights.{key} differs between" in error


@pytest.mark.usefixtures("no_weights")
def test_a_network_that_no_metric_uses_keeps_nothing_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [finish(experiment(tmp_path / net, weights={"lpips_net": net})) for net in ("alex", "vgg")]
    assert joining(capsys, tmp_path, *runs)[0] == cli.COMPLETE


@pytest.mark.usefixtures("no_weights")
def test_another_network_sets_the_rows_of_the_first_aside(tmp_path: Path) -> None:
    first = experiment(tmp_path, metrics=["psnr", "lpips"])
    do(first)
    wanted = {"metrics": ["psnr", "lpips"], "weights": {"lpips_net": "vgg"}}
    assert do(experiment(tmp_path, **wanted)).images_missing == 2 * 5
    assert do(first).images_missing == 0


@pytest.mark.usefixtures("no_weights")
def test_rows_without_a_metric_that_others_have_are_counted(tmp_path: Path, inception: tuple[Path, str]) -> None:
    path, sha256 = inception
    wanted: dict[str, Any] = {"solvers": PINV, "metrics": ["psnr", "fid", "kid"]}
    before = experiment(tmp_path, **wanted, data=stretch(2), weights={"inception_sha256": sha256})
    assert "fid" in before.missing_metrics
    run = RunFolder(before.config.run_location)
    do(before)
    assert Evaluation(before).gaps(index_of(before)) == []  # that nothing has it is said by the plan

    weights = {"inception_sha256": sha256, "inception": str(path)}
    after = experiment(tmp_path, **wanted, data=stretch(5), weights=weights)
    assert after.missing_metrics == {}
    assert do(after).missing[after.cells[0].hash].tolist() == [2, 3, 4]
    for _ in range(2):
        (line,) = Evaluation(after).gaps(index_of(after))
        assert line.startswith("fid, kid: 2 of 5 rows of sr4 / pinv / seed 0 lack it")
        assert "\n" not in line
        compact(run)
    assert len(Evaluation(before).gaps(index_of(before))) == 1  # taken up again where the weights are absent

    whole = experiment(tmp_path, **wanted, name="another", data=stretch(5), weights=weights)
    do(whole)
    assert Evaluation(whole).gaps(index_of(whole)) == []


def stretch(limit: int) -> dict[str, Any]:
    return {"source": "portraits:test", "limit": limit}


def test_a_metric_that_was_not_asked_for_is_counted_for_each_cell(tmp_path: Path) -> None:
    do(experiment(tmp_path, metrics=["psnr"]))
    more = experiment(tmp_path, metrics=["psnr", "ssim"])
    assert [line.split(" lack")[0] for line in Evaluation(more).gaps(index_of(more))] == [
        f"ssim: 5 of 5 rows of sr4 / {solver} / seed 0" for solver in ("pinv", "ddnm")
    ]


def seen_from(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Experiment:
    """Return an experiment on the images that one machine has under the name ``images``."""
    monkeypatch.chdir(folder)
    return experiment(folder, **{"data": {"source": "images"}, **changes})


def test_other_images_of_the_same_names_are_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"a": {"source": "images", "limit": 2}, "b": {"source": "images", "offset": 2}}
    runs = {}
    for name, size in (("a", 20), ("b", 300)):
        photographs(tmp_path / name, "teal", size=size)
        trial = seen_from(tmp_path / name, monkeypatch, data=data[name])
        runs[name] = finish(trial)
    assert experiment(tmp_path / "a", data=data["a"]).cells == trial.cells
    code, error = joining(capsys, tmp_path, *runs.values())
    assert (code, error.count("\n")) == (cli.WRONG_REQUEST, 1)
    assert "data: " in error
    assert "not the same images: 3 in both" in error


def test_stretches_of_the_same_images_and_of_a_source_that_grew_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    stretches: list[tuple[str, int, dict[str, int]]] = [("a", 3, {"limit": 1}), ("b", 3, {"offset": 1}), ("c", 4, {})]
    for name, n, window in stretches:
        photographs(tmp_path / name, "teal", n)
        runs.append(finish(seen_from(tmp_path / name, monkeypatch, data={"source": "images", **window})))
    code, error = joining(capsys, tmp_path, *runs)
    assert (code, error) == (cli.COMPLETE, "")
    assert len(pd.read_parquet(tmp_path / "whole" / "results")) == 2 * 4


def test_images_that_were_replaced_are_noticed_for_good_and_new_ones_are_welcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path, "teal")
    first = seen_from(tmp_path, monkeypatch, data={"source": "images", "limit": 2})
    run = finish(first)
    known = run.read_json("provenance.json")
    assert provenance.changed_images(seen_from(tmp_path, monkeypatch), known) == []
    photographs(tmp_path, "teal", n=4)
    assert provenance.changed_images(seen_from(tmp_path, monkeypatch), known) == []
    photographs(tmp_path, "teal", size=300)
    (tmp_path / "images" / "3.png").unlink()
    now = seen_from(tmp_path, monkeypatch)
    (line,) = provenance.changed_images(now, known)
    assert f"the images of data.source have changed since {known['start']}" in line
    later = provenance.describe(now, "one process", known)  # written by the run that said so
    assert provenance.changed_images(now, later) == [line]
    anew = seen_from(tmp_path, monkeypatch, seed=1, metrics=["psnr", "fd_prior"])
    assert provenance.changed_images(anew, later) == []  # it shares no cell with what was done


def test_the_expected_time_is_that_of_the_setting_and_torn_files_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run = RunFolder(trial.config.run_location)
    pinv, ddnm = (cell.hash for cell in trial.cells)
    table = pd.read_parquet(run.path("results")).astype({"solver": str})
    known = table.groupby("solver")["seconds"].mean()
    assert Evaluation(trial).seconds(index_of(trial)) == pytest.approx({pinv: known["pinv"], ddnm: known["ddnm"]})

    changed = experiment(tmp_path, solvers={**PINV, "ddnm": {"solver": "ddnm", "num_steps": 400}})
    assert Evaluation(changed).seconds(index_of(changed)) == pytest.approx({pinv: known["pinv"]})
    do(experiment(tmp_path, solvers=PINV))  # sets the rows of ddnm aside
    assert Evaluation(trial).seconds(index_of(trial)) == pytest.approx({pinv: known["pinv"], ddnm: known["ddnm"]})

    torn, *whole = map(Path, run.files("results"))
    torn.write_bytes(torn.read_bytes()[:200])
    left = pd.concat(pd.read_parquet(path, columns=["seconds"], partitioning=None) for path in whole)
    assert Evaluation(changed).seconds(index_of(changed)) == pytest.approx({pinv: left["seconds"].mean()})
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path, data=stretch(6))))
    assert evaluate([str(config), "--dry-run", "solvers.ddnm.num_steps=400"]) == cli.COMPLETE
    assert "not measured yet, and not in it: sr4 / ddnm" in capsys.readouterr().out


def test_a_job_says_what_goes_with_its_cluster_what_its_rows_lack_and_that_its_images_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path, "teal")
    monkeypatch.chdir(tmp_path)
    request: dict[str, Any] = {"data": {"source": "images"}, "solvers": PINV}
    finish(experiment("runs", **request, metrics=["psnr"]))  # nothing is left to do, so that no Ray is started below
    photographs(tmp_path, "teal", size=300)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(mapping("runs", **request)))
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "one"}})}
    line = [sys.executable, "-m", "ray_jobs.evaluate", "x.yaml"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **job}
    done = subprocess.run(line, capture_output=True, text=True, timeout=180, env=env)
    assert (done.returncode, done.stderr) == (cli.COMPLETE, "")
    changed, lost, gap = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert "the images of data.source have changed since" in changed
    assert f"output: 'runs' lies in the job's own directory on the head, {tmp_path}, and goes with the cluster" in lost
    assert "set output=s3://BUCKET/runs" in lost
    assert "ssim: 3 of 3 rows of sr4 / pinv / seed 0 lack it" in gap
    status = RunFolder("runs/small").read_json("status.json")
    assert [f"note: {note}" for note in status["notes"]] == [changed, lost, gap]
    assert (status["state"], status["exit_code"]) == ("complete", cli.COMPLETE)


@pytest.mark.parametrize(
    ("output", "uri", "key"),
    [
        ("runs", None, "output"),
        ("runs", "http://127.0.0.1:9", "output"),
        ("/shared/runs", None, None),  # as far as can be seen from here
        ("file:///shared/runs", None, None),
        ("memory://runs", None, "tracking.uri"),
        ("memory://runs", "http://127.0.0.1:9", None),
        ("memory://runs", "sqlite:///mlflow.db", "tracking.uri"),
        ("memory://runs", "sqlite:////shared/mlflow.db", None),
        ("/shared/runs", "mlruns", "tracking.uri"),
        ("/shared/runs", "/shared/mlruns", None),
    ],
)
def test_what_lies_in_the_directory_of_a_job_is_named(
    output: str, uri: str | None, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(Config, mapping(output, tracking={"uri": uri}), "config")
    assert lost_with_the_cluster(config) == []
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "one"}}))
    assert [line.partition(":")[0] for line in lost_with_the_cluster(config)] == ([key] if key else [])

"""Runs that were computed apart become one, or are refused; small files become few."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ipsolve.config import load_config
from ipsolve.experiment import Experiment
from ipsolve.results import RunFolder
from ray_jobs import cli
from ray_jobs.compact import main as compact
from ray_jobs.merge import main as merge
from ray_jobs.pipeline import provenance
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.storage import Failure, Storage
from tests.ray_jobs.small_runs import close, do, experiment, rows

PINV, DDNM = {"pinv": {"solver": "pseudo_inverse"}}, {"ddnm": {"solver": "ddnm", "num_steps": 4}}


def part(folder: Path, **changes: Any) -> RunFolder:
    """Return a finished run as one of the clusters leaves it."""
    trial = experiment(folder, **changes)
    do(trial)
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    run.write_json("provenance.json", provenance.describe(trial, "one process") | {"end": provenance.now()})
    return run


def joined(folder: Path, *runs: RunFolder) -> Experiment:
    """Merge runs and return what the joined configuration asks for."""
    into = folder / "whole"
    assert merge([*(run.root for run in runs), "--into", str(into)]) == cli.COMPLETE
    return Experiment.of(load_config(into / "config.yaml"))


SHARED = {
    "images": [{"data": {"source": "portraits:test", "limit": 3}},
               {"data": {"source": "portraits:test", "offset": 3, "limit": 2}}],
    "overlapping images": [{"data": {"source": "portraits:test", "limit": 4}},
                           {"data": {"source": "portraits:test", "offset": 2, "limit": 3}}],
    "solvers": [{"solvers": PINV}, {"solvers": DDNM}],
    "seeds": [{"seed": 0}, {"seed": 1}],
}  # fmt: skip


@pytest.mark.parametrize("way", SHARED)
def test_what_two_clusters_share_becomes_the_run_of_one(tmp_path: Path, way: str) -> None:
    first, second = (part(tmp_path / str(i), **changes) for i, changes in enumerate(SHARED[way]))
    both = joined(tmp_path, first, second)
    alone = experiment(tmp_path / "alone", seed=[0, 1] if way == "seeds" else 0)
    do(alone)
    assert rows(both) == close(rows(alone))
    assert Plan.of(both).images_missing == 0
    run = RunFolder(both.config.run_location)
    assert sorted(run.references()["image_id"].to_pylist()) == sorted(alone.image_ids)
    assert run.exists("report.html")
    assert set(pd.read_csv(run.path("summary.csv"))["solver"]) == {"pinv", "ddnm"}
    assert len(run.read_json("provenance.json")["merged_from"]) == 2
    assert all(len(each.files("results")) for each in (first, second))  # copied from, not emptied


def test_what_nobody_has_done_is_missing_and_merging_again_adds_it(tmp_path: Path) -> None:
    first = part(tmp_path / "a", data={"source": "portraits:test", "limit": 2})
    second = part(tmp_path / "b", data={"source": "portraits:test", "offset": 4, "limit": 1})
    assert Plan.of(joined(tmp_path, first, second)).images_missing == 3 * 2
    third = part(tmp_path / "c", data={"source": "portraits:test", "offset": 2, "limit": 2})
    assert Plan.of(joined(tmp_path, first, second, third)).images_missing == 0


def test_a_result_of_one_run_replaces_the_failure_of_another(tmp_path: Path) -> None:
    trial = experiment(tmp_path / "a")
    storage, cell, image = Storage(trial.config.run_location), trial.cells[0], trial.image_ids[0]
    failure = Failure.of(cell, image, "crash", "for a test")
    storage.save(cell, [image], pd.DataFrame(), [failure])
    first = part(tmp_path / "a")
    assert len(first.failures()) == 1
    both = joined(tmp_path, first, part(tmp_path / "b"))
    assert len(RunFolder(both.config.run_location).failures()) == 0
    assert len(rows(both)) == 10


REFUSED = {
    "another setting": ({"solvers": {**PINV, "ddnm": {"solver": "ddnm", "num_steps": 5}}}, "solvers.ddnm differs"),
    "other data": ({"data": {"source": "portraits:val", "limit": 5}}, "data differs"),
    "other metrics": ({"metrics": ["psnr"]}, "metrics differs"),
    "another precision": ({"compute": {"precision": "float64"}}, "compute.precision differs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_that_do_not_belong_together_are_refused(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = REFUSED[case]
    first, second = part(tmp_path / "a"), part(tmp_path / "b", **changes)
    code = merge([first.root, second.root, "--into", str(tmp_path / "whole")])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (cli.WRONG_REQUEST, 1)
    assert words in error
    assert not (tmp_path / "whole").exists()


def test_cells_of_another_prior_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = part(tmp_path / "a"), part(tmp_path / "b")
    origin = second.read_json("provenance.json")  # as of a checkpoint with other weights in the same place
    cells = {f"{index:012}": name for index, name in enumerate(origin["cells"].values())}
    second.write_json("provenance.json", origin | {"cells": cells, "prior_fingerprint": "another"})
    assert merge([first.root, second.root, "--into", str(tmp_path / "whole")]) == cli.WRONG_REQUEST
    assert "they differ in prior_fingerprint" in capsys.readouterr().err


def test_a_run_is_not_merged_into_itself_or_into_another_run(tmp_path: Path) -> None:
    first, second = part(tmp_path / "a"), part(tmp_path / "b")
    before = rows(experiment(tmp_path / "a"))
    assert merge([first.root, "--into", first.root]) == cli.WRONG_REQUEST
    assert merge([first.root, "--into", second.root]) == cli.WRONG_REQUEST
    assert merge([str(tmp_path / "nothing"), "--into", str(tmp_path / "whole")]) == cli.WRONG_REQUEST
    assert rows(experiment(tmp_path / "a")) == before


def test_compact_makes_few_files_and_keeps_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = part(tmp_path)
    trial = experiment(tmp_path)
    before, many = rows(trial), len(run.files("results"))
    assert compact([run.root]) == cli.COMPLETE
    assert "9 files are now 3" in capsys.readouterr().out
    assert (many, len(run.files("results"))) == (6, 2)
    assert rows(trial) == before
    assert compact([str(tmp_path / "nothing")]) == cli.WRONG_REQUEST


def test_an_actor_gathers_its_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.pipeline.storage.GATHER", 2)
    trial = experiment(tmp_path, compute={"batch_size": 1, "num_actors": 1})
    do(trial)
    assert len(RunFolder(trial.config.run_location).files("results")) == 2 * 3  # five images: 2 + 2 + 1
    whole = dataclasses.replace(trial, config=dataclasses.replace(trial.config, output=str(tmp_path / "alone")))
    monkeypatch.setattr("ray_jobs.pipeline.storage.GATHER", 64)
    do(whole)
    assert rows(trial) == rows(whole)

"""Runs that were computed apart become one, or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ipsolve.requests.validation import build
from ipsolve.runs.config import Config, load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs import merge as merging
from ray_jobs.merge import main as merge
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.batches import Failure, Storage, merge_files
from ray_jobs.pipeline.folder.merge import join_configs
from ray_jobs.pipeline.plan import Plan
from tests.ray_jobs.small_runs import close, do, experiment, index_of, mapping, rows

PINV, DDNM = {"pinv": {"solver": "pseudo_inverse"}}, {"ddnm": {"solver": "ddnm", "num_steps": 4}}


def missing(trial: Experiment) -> int:
    """Return how many images an experiment still has to do."""
    return Plan.of(trial, index_of(trial)).images_missing


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
    assert missing(both) == 0
    run = RunFolder(both.config.run_location)
    assert sorted(run.references()["image_id"].to_pylist()) == sorted(alone.image_ids)
    assert run.exists("report.html")
    assert set(pd.read_csv(run.path("summary.csv"))["solver"]) == {"pinv", "ddnm"}
    assert len(run.read_json("provenance.json")["merged_from"]) == 2
    assert all(len(each.files("results")) for each in (first, second))  # copied from, not emptied


def test_what_nobody_has_done_is_missing_and_merging_again_adds_it(tmp_path: Path) -> None:
    first = part(tmp_path / "a", data={"source": "portraits:test", "limit": 2})
    second = part(tmp_path / "b", data={"source": "portraits:test", "offset": 4, "limit": 1})
    assert missing(joined(tmp_path, first, second)) == 3 * 2
    third = part(tmp_path / "c", data={"source": "portraits:test", "offset": 2, "limit": 2})
    assert missing(joined(tmp_path, first, second, third)) == 0


def test_what_was_missing_is_done_in_the_joined_run_and_merging_goes_on(tmp_path: Path) -> None:
    first = part(tmp_path / "a", data={"source": "portraits:test", "limit": 2})
    second = part(tmp_path / "b", data={"source": "portraits:test", "offset": 4, "limit": 1})
    both = joined(tmp_path, first, second)
    run = RunFolder(both.config.run_location)
    do(both)
    run.write_json("provenance.json", provenance.describe(both, "one process", run.read_json("provenance.json")))
    whole = rows(both)
    assert len(whole) == 10
    third = part(tmp_path / "c", data={"source": "portraits:test", "offset": 2, "limit": 2})
    for _ in range(2):
        assert rows(joined(tmp_path, first, second, third)) == close(whole)
    origin = run.read_json("provenance.json")
    assert len(origin["merged_from"]) == 3
    assert [each["actors"] for each in origin["earlier"]] == ["one process"]  # what was done in it is not forgotten


def test_a_merge_that_is_killed_is_done_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [part(tmp_path / str(i), seed=i) for i in range(2)]
    target = RunFolder(tmp_path / "whole")
    write = RunFolder.write
    for moment in range(6):
        count = iter(range(moment))

        def dying(run: RunFolder, *rest: Any, count: Iterator[int] = count, **more: Any) -> None:
            if next(count, None) is None:
                raise KeyboardInterrupt  # as a killed process, it says nothing and does not tidy up
            write(run, *rest, **more)

        monkeypatch.setattr(RunFolder, "write", dying)
        merge([*(run.root for run in runs), "--into", target.root])
        monkeypatch.setattr(RunFolder, "write", write)
    assert not target.exists("status.json")
    assert len(rows(joined(tmp_path, *runs))) == 20


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


def test_a_run_without_its_provenance_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = part(tmp_path / "a"), part(tmp_path / "b")
    second.delete([second.path("provenance.json")])
    assert merge([first.root, second.root, "--into", str(tmp_path / "whole")]) == cli.WRONG_REQUEST
    error = capsys.readouterr().err
    assert error.startswith(f"error: {second.root} has no provenance.json")
    assert error.count("\n") == 1


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


def test_a_result_is_taken_over_where_its_whole_batch_has_the_same_name(tmp_path: Path) -> None:
    trial = experiment(tmp_path / "a")
    storage, cell, images = Storage(trial.config.run_location), trial.cells[0], list(trial.image_ids[:2])
    do(experiment(tmp_path / "b"))
    whole = RunFolder(experiment(tmp_path / "b").config.run_location)
    path = next(path for path in whole.files("results", "task=sr4", "solver=pinv") if images[0] in _ids(whole, path))
    row = pq.read_table(pa.BufferReader(whole.read(path))).slice(0, 1)
    storage.save(cell, images, row, [Failure.of(cell, images[1], "solve", "for a test")])
    first, second = part(tmp_path / "a"), part(tmp_path / "b")
    assert {path.rpartition("/")[2] for path in first.files("results")} & {path.rpartition("/")[2]}
    both = joined(tmp_path, first, second)
    assert len(rows(both)) == 10
    assert len(RunFolder(both.config.run_location).failures()) == 0


def _ids(run: RunFolder, path: str) -> list[str]:
    return pq.read_table(pa.BufferReader(run.read(path)))["image_id"].to_pylist()


@pytest.mark.parametrize("kind", ["results", "failures", "references"])
@pytest.mark.parametrize("both_have_it", [False, True])
def test_a_torn_file_is_left_out_and_its_rows_come_from_the_other_run(
    tmp_path: Path, kind: str, both_have_it: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = experiment(tmp_path / "a")
    failure = Failure.of(trial.cells[0], trial.image_ids[0], "crash", "for a test")
    Storage(trial.config.run_location).save(trial.cells[0], trial.image_ids[:1], pa.table({}), [failure])
    first, second = part(tmp_path / "a"), part(tmp_path / "b")
    torn = Path(first.files(kind)[0])
    torn.write_bytes(torn.read_bytes()[:200])
    both = joined(tmp_path, first, *([second] if both_have_it else []))
    out = capsys.readouterr().out
    assert f"note: torn file {torn} was left out" in out
    assert "; 1 torn files were left out" in out
    assert (missing(both) == 0) == both_have_it
    target = RunFolder(both.config.run_location)
    assert target.exists("report.html")
    assert target.files("superseded") == []
    assert len(torn.read_bytes()) == 200  # the run is copied from, not changed


def test_a_file_of_the_joined_run_that_is_torn_is_copied_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (part(tmp_path / str(i), seed=i) for i in range(2))
    both = joined(tmp_path, first, second)
    before, target = rows(both), RunFolder(both.config.run_location)
    Path(target.files("results")[0]).write_bytes(b"PAR1")
    joined(tmp_path, first, second)
    assert "note: torn file" in capsys.readouterr().out
    assert rows(both) == before


@pytest.mark.parametrize("moment", ["rows_of", "scan"])
def test_a_run_whose_actors_gather_files_meanwhile_is_copied_whole(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = part(tmp_path / "a")
    step, small = getattr(merging, moment), run.files("results", "task=sr4", "solver=ddnm")

    def gathered_after(of: RunFolder, *rest: Any) -> Any:
        found = step(of, *rest)
        if of.root == run.root and run.exists(small[0].removeprefix(f"{run.root}/")):
            merge_files(run, small)
        return found

    monkeypatch.setattr(merging, moment, gathered_after)
    both = joined(tmp_path, run)
    assert len(run.files("results", "task=sr4", "solver=ddnm")) == 1
    assert rows(both) == rows(experiment(tmp_path / "a"))


PLACES = {
    "runs/x": ("x", "runs"),
    "x": ("x", "."),
    "/x/": ("x", "/"),
    "s3://b/runs/x?endpoint_override=h:1&scheme=http": ("x", "s3://b/runs?endpoint_override=h:1&scheme=http"),
    "s3://b/x/?region=r": ("x", "s3://b?region=r"),
}


@pytest.mark.parametrize("into", PLACES)
def test_the_joined_configuration_means_the_folder_it_is_in(into: str) -> None:
    config = join_configs({"a": mapping("runs")}, into)
    assert (config["name"], config["output"]) == PLACES[into]
    assert RunFolder(build(Config, config, "config").run_location).root == RunFolder(into).root


@pytest.mark.parametrize("name", ["with space", ".hidden", "a" * 129, "what?"])
def test_a_folder_that_cannot_be_the_name_of_a_run_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = part(tmp_path / "a")
    assert merge([run.root, "--into", str(tmp_path / name)]) == cli.WRONG_REQUEST
    error = capsys.readouterr().err
    assert error.startswith(f"error: --into: the run cannot have the name {name!r}; allowed: ")
    assert error.count("\n") == 1
    assert not (tmp_path / name).exists()

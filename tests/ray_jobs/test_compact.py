"""Small files become few: no row is lost, twice or damaged, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.compact import main as compact
from ray_jobs.evaluate import Evaluation
from ray_jobs.pipeline.folder.batches import Storage, merge_files
from ray_jobs.pipeline.folder.finish import put_in_order
from ray_jobs.report import main as report
from tests.ray_jobs.small_runs import close, do, experiment, index_of, rows


def finished(folder: Path) -> tuple[Experiment, RunFolder]:
    """Return an experiment that is done, and its folder of small files."""
    trial = experiment(folder)
    do(trial)
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    return trial, run


def tear(path: str) -> int:
    """Cut a file off; return how many rows it had."""
    count = int(pq.read_metadata(path).num_rows)
    Path(path).write_bytes(Path(path).read_bytes()[:200])
    return count


def test_compact_makes_few_files_and_keeps_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial, run = finished(tmp_path)
    before, many = rows(trial), len(run.files("results"))
    assert compact([run.root]) == cli.COMPLETE
    assert "9 files are now 3" in capsys.readouterr().out
    assert (many, len(run.files("results"))) == (6, 2)
    assert rows(trial) == before
    assert compact([str(tmp_path / "nothing")]) == cli.WRONG_REQUEST


def test_rows_that_a_killed_process_left_twice_are_there_once(tmp_path: Path) -> None:
    trial, run = finished(tmp_path)
    before = rows(trial)
    small = {path: Path(path).read_bytes() for path in run.files("results")}
    assert compact([run.root]) == cli.COMPLETE
    for path, content in small.items():  # killed after it had written, before it deleted
        Path(path).write_bytes(content)
    assert compact([run.root]) == cli.COMPLETE
    assert rows(trial) == before  # and none twice


def test_rows_that_are_twice_in_one_file_are_there_once(tmp_path: Path) -> None:
    trial, run = finished(tmp_path)
    before, path = rows(trial), run.files("results")[0]
    table = pq.read_table(path, partitioning=None)
    run.write_table(path, pa.concat_tables([table, table]))
    assert compact([run.root]) == cli.COMPLETE
    assert rows(trial) == before
    run.write_table(path, pa.concat_tables([table, table]))
    assert do(trial).images_missing == 0
    assert rows(trial) == before


def test_files_from_before_a_metric_was_registered_stay_with_their_cell(tmp_path: Path) -> None:
    trial, run = finished(tmp_path)
    for path in run.files("results")[::2]:  # the first and the third, so that either kind comes first in a cell
        run.write_table(path, pq.read_table(path, partitioning=None).drop_columns(["ssim"]))
    new = run.results(["image_id", "solver", "ssim"]).to_pylist()
    assert {row["ssim"] is None for row in new} == {True, False}
    assert len(run.pick(["image_id", "ssim"], trial.image_ids[:2], "results")) == 4
    assert any("ssim: " in line and "lack it" in line for line in Evaluation(trial).gaps(index_of(trial)))
    before = rows(trial)
    assert do(trial).images_missing == 0  # a metric is not part of a cell
    assert put_in_order(index_of(trial), trial) == []
    assert len(run.files("results")) == 2
    assert rows(trial) == before
    assert sorted(run.results(["image_id", "solver", "ssim"]).to_pylist(), key=str) == sorted(new, key=str)
    assert report([run.root]) == cli.COMPLETE


@pytest.mark.parametrize("kind", ["results", "references"])
def test_a_torn_file_is_set_aside_and_said(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    trial, run = finished(tmp_path)
    before, path = rows(trial), run.files(kind)[0]
    lost = tear(path)
    assert compact([run.root]) == cli.COMPLETE
    assert f"note: torn file {os.path.basename(path)} moved to superseded/torn" in capsys.readouterr().out
    assert run.files("superseded") == [run.path("superseded", "torn", kind, os.path.basename(path))]
    assert do(trial).images_missing == lost
    assert rows(trial) == close(before)


@pytest.mark.parametrize("kind", ["results", "references"])
def test_the_report_of_a_run_with_a_torn_file_is_one_line_that_names_it(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, run = finished(tmp_path)
    files = run.files(kind)
    for path in files[1:3]:
        tear(path)
    assert report([run.root]) == cli.WRONG_REQUEST
    error = capsys.readouterr().err
    assert error.startswith(f"error: {files[1]} is torn, and 1 more files; python -m ray_jobs.evaluate ")
    assert error.count("\n") == 1
    assert run.files(kind) == files  # a report changes no rows
    do(trial)
    assert report([run.root]) == cli.COMPLETE


def test_a_run_whose_configuration_is_damaged_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = finished(tmp_path)
    run.write(run.path("config.yaml"), b"name: [")
    assert report([run.root]) == cli.WRONG_REQUEST
    error = capsys.readouterr().err
    assert error.startswith("error: config.yaml of the run is not YAML")
    assert error.count("\n") == 1


def test_an_actor_gathers_its_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.pipeline.folder.batches.GATHER", 2)
    trial = experiment(tmp_path, compute={"batch_size": 1, "num_actors": 1})
    do(trial)
    assert len(RunFolder(trial.config.run_location).files("results")) == 2 * 3  # five images: 2 + 2 + 1
    whole = dataclasses.replace(trial, config=dataclasses.replace(trial.config, output=str(tmp_path / "alone")))
    monkeypatch.setattr("ray_jobs.pipeline.folder.batches.GATHER", 64)
    do(whole)
    assert rows(trial) == rows(whole)


def test_what_is_gathered_is_on_the_disk_before_anything_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, run = finished(tmp_path)
    small = run.files("results", "task=sr4", "solver=pinv")
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        fsync(file)
        synced.append((os.readlink(f"/proc/self/fd/{file}"), all(map(os.path.exists, small))))

    monkeypatch.setattr(os, "fsync", watched)
    merge_files(run, small)
    (gathered,) = run.files("results", "task=sr4", "solver=pinv")
    (file, whole), (folder, still_whole) = synced
    assert os.path.basename(file).startswith(f".{os.path.basename(gathered)}.")
    assert folder == os.path.dirname(gathered)
    assert whole
    assert still_whole
    cell = trial.cells[0]
    Storage(run.root).save(cell, trial.image_ids[:2], pq.read_table(gathered, partitioning=None).slice(0, 2), [])
    assert len(synced) == 2  # a batch does not wait for the disk

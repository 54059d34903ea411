"""The files of a run: nothing is lost, nothing twice, nothing of another configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ipsolve.evaluation.batch import Failure
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.batches import Storage
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.status import run_to_end
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.pipeline.plan import Plan
from tests.ray_jobs.small_runs import close, compact, do, experiment, index_of, mapping, rows


def test_batches_of_the_cells_are_interleaved(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    plan = Plan.of(trial, index_of(trial))
    reference, (pinv, ddnm) = trial.reference_cell, trial.cells
    assert list(plan.dispatch().batches()) == [
        *((cell, [0, 1]) for cell in (reference, pinv, ddnm)),
        *((cell, [2, 3]) for cell in (reference, pinv, ddnm)),
        *((cell, [4]) for cell in (reference, pinv, ddnm)),
    ]


def test_the_rows_of_the_source_are_bounded(tmp_path: Path) -> None:
    trial = experiment(tmp_path, data={"source": "portraits:test", "limit": 3000}, compute={"batch_size": 1})
    plan = Plan.of(trial, index_of(trial))
    assert plan.num_batches == len(plan.dispatch()) == 9000
    chunks = plan.dispatch().chunks(1024)
    assert len(chunks) <= 1024
    assert [k for start, stop in chunks for k in range(start, stop)] == list(range(9000))


def test_a_finished_run_leaves_nothing_to_do(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    assert do(trial).images_missing == 15
    before = rows(trial)
    assert do(trial).images_missing == 0
    assert rows(trial) == before
    assert len(RunFolder(trial.config.run_location).references()) == 5


def test_a_broken_off_run_is_completed(tmp_path: Path) -> None:
    whole, broken = experiment(tmp_path / "a"), experiment(tmp_path / "b")
    do(whole)
    do(broken, batches=4)
    assert do(broken).images_missing == 15 - 8
    assert rows(broken) == close(rows(whole))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"data": {"source": "portraits:test", "limit": 7}}, 3 * 2),
        ({"seed": [0, 1]}, 2 * 5),
        ({"solvers": {"pinv": {"solver": "pseudo_inverse"}, "tv": {"solver": "tv", "num_steps": 3}}}, 5),
        ({"tasks": mapping("")["tasks"] | {"noise": {"operator": "denoising", "noise_std": 0.1}}}, 2 * 5),
        ({"compute": {"batch_size": 5}}, 0),
        ({"name": "small", "metrics": ["psnr"]}, 0),
    ],
    ids=["images", "seeds", "a solver", "a task", "batch size", "metrics"],
)
def test_extending_a_run_does_the_new_part_only(tmp_path: Path, changes: dict[str, Any], missing: int) -> None:
    do(experiment(tmp_path))
    extended = experiment(tmp_path, **changes)
    assert do(extended).images_missing == missing
    alone = experiment(tmp_path / "alone", **changes)
    do(alone)
    assert rows(extended) == close(rows(alone))


def test_a_changed_setting_is_set_aside_and_comes_back(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    before = rows(trial)
    changed = experiment(
        tmp_path, solvers={"pinv": {"solver": "pseudo_inverse"}, "ddnm": {"solver": "ddnm", "num_steps": 6}}
    )
    assert do(changed).images_missing == 5
    assert len(rows(changed)) == 10
    assert rows(changed) != before
    assert len(RunFolder(trial.config.run_location).files("superseded")) == 3
    assert do(trial).images_missing == 0
    assert rows(trial) == before


def test_fewer_images_are_a_smaller_run(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    compact(RunFolder(trial.config.run_location))
    fewer = experiment(tmp_path, data={"source": "portraits:test", "limit": 3})
    assert do(fewer).images_missing == 0
    assert {key[3] for key in rows(fewer)} == set(fewer.image_ids)
    before = rows(fewer)
    assert do(trial).images_missing == 0
    assert len(rows(trial)) == 10
    assert before.items() < rows(trial).items()


def test_compaction_keeps_every_row(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run, before = RunFolder(trial.config.run_location), rows(trial)
    small = run.files("results")
    compact(run)
    assert len(small) == 6
    assert len(run.files("results")) == 2
    assert len(run.files("references")) == 1
    assert rows(trial) == before


def test_a_compaction_that_was_killed_is_put_right(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run, before = RunFolder(trial.config.run_location), rows(trial)
    kept = {path: Path(path).read_bytes() for path in run.files("results")}
    compact(run)
    for path in list(kept)[1:]:  # killed before it deleted these
        Path(path).write_bytes(kept[path])
    assert len(run.results(["psnr"])) == len(before)
    assert do(trial).images_missing == 0
    assert rows(trial) == before


def test_a_plan_is_made_of_what_can_be_read(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run = RunFolder(trial.config.run_location)
    cell = trial.cells[0].hash
    for name in (f"failures/{cell}-1.parquet", f"superseded/x/y/z/{cell}-2.parquet", "superseded/stray.parquet"):
        run.write(run.path(name), b"PAR1")
    assert Plan.of(trial, index_of(trial)).images_missing == 0  # as --dry-run, which changes nothing
    assert len(run.files("superseded")) == 2
    assert do(trial).images_missing == 0
    assert rows(trial)


def test_a_torn_file_is_done_again(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run, before = RunFolder(trial.config.run_location), rows(trial)
    torn = Path(run.files("results")[0])
    lost = pq.read_metadata(torn).num_rows
    torn.write_bytes(torn.read_bytes()[:200])
    assert do(trial).images_missing == lost
    assert do(trial).images_missing == 0  # with the torn file set aside
    assert rows(trial) == close(before)


def test_failures_are_kept_and_tried_again_on_request_only(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    storage, cell = Storage(trial.config.run_location), trial.cells[0]
    storage.save(cell, trial.image_ids[:1], pa.table({}), [Failure.of(cell, trial.image_ids[0], "solve", "for a test")])
    plan = do(trial)
    assert plan.failed[cell.hash] == 1
    assert plan.images_missing == 14
    assert (len(rows(trial)), len(storage.run.failures())) == (9, 1)
    tidy(RunIndex(storage.run, plan.cells), plan.cells, set(trial.image_ids), retry_failed=True)
    assert do(trial).images_missing == 1
    assert (len(rows(trial)), len(storage.run.failures())) == (10, 0)


def test_a_provenance_that_a_power_cut_left_empty_is_lost_and_said(tmp_path: Path) -> None:
    run, notes = RunFolder(tmp_path), list[str]()
    assert provenance.read(run, notes.extend) == {}
    assert notes == []  # a new run has none
    run.write(run.path("provenance.json"), b"")
    assert provenance.read(run, notes.extend) == {}
    assert notes == ["provenance.json cannot be read, as after a power cut: how earlier rows were computed is lost"]


def test_a_status_that_a_power_cut_left_empty_is_gone_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(run.path("status.json"), b"")
    assert run_to_end(run, "run", lambda status: (cli.COMPLETE, "complete")) == cli.COMPLETE
    status = run.read_json("status.json")
    assert (status["state"], status["exit_code"]) == ("complete", 0)
    assert "status.json cannot be read" in status["notes"][0]

"""One index of a run: a file is opened once in its life, and it stays what a fresh one would say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ipsolve.runs.results import RunFolder, cell_of
from ray_jobs.evaluate import Evaluation
from ray_jobs.pipeline.folder import index as index_module
from ray_jobs.pipeline.folder.finish import put_in_order
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.pipeline.plan import Plan, outcome_counts
from tests.ray_jobs.small_runs import do, experiment, index_of


def said(index: RunIndex) -> dict[str, Any]:
    """Return all that an index knows, in a form to be compared."""
    return {
        path: (content.image_ids.to_pylist(), content.samples.to_pylist(), round(content.seconds, 9),
               {name: count for name, count in content.nulls.items() if count}, content.unreadable)
        for path, content in sorted(index.contents.items())
    }  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is looked into."""
    counts, read = Counter[str](), index_module.Content.read

    def counted(run: RunFolder, path: str) -> Any:
        counts[path] += 1
        return read(run, path)

    monkeypatch.setattr(index_module.Content, "read", counted)
    return counts


def test_a_file_is_opened_once_from_the_plan_to_the_end(tmp_path: Path, opened: Counter[str]) -> None:
    trial = experiment(tmp_path)
    do(trial, batches=4)  # a run that was broken off
    opened.clear()
    run = RunFolder(trial.config.run_location)
    index = RunIndex(run, trial.all_cells)
    tidy(index, trial.all_cells, set(trial.image_ids))
    assert Plan.of(trial, index, index.seconds(trial.cells)).images_missing == 15 - 4 * 2
    assert opened == dict.fromkeys(index.contents, 1)
    do(trial)  # by the actors, which have indices of their own
    opened.clear()
    before = set(index.contents)
    assert outcome_counts(trial, index.refresh()) == (10, 0, 0)
    assert put_in_order(index, trial) == []
    assert Evaluation(trial).gaps(index) == []
    assert opened.keys().isdisjoint(before)
    assert set(opened.values()) == {1}
    assert said(index) == said(index_of(trial))


def test_an_index_knows_what_was_done_to_files_through_it(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    run = RunFolder(trial.config.run_location)
    index = index_of(trial)
    paths = run.files("results")
    index.move(paths[0], run.path("superseded", cell_of(paths[0]), "results", f"{cell_of(paths[0])}-moved.parquet"))
    index.delete([paths[1]])
    with run.filesystem.open_input_file(paths[2]) as file:
        table = pq.read_table(file)
    index.write(paths[2], table.slice(0, 0))
    assert said(index) == said(index_of(trial))


def test_files_of_other_cells_are_known_by_name_alone(tmp_path: Path, opened: Counter[str]) -> None:
    trial = experiment(tmp_path)
    do(trial)
    opened.clear()
    index = RunIndex(RunFolder(trial.config.run_location), trial.cells[:1]).refresh()
    assert len(opened) == len(index.contents) == 3
    assert len(index.others) == 6

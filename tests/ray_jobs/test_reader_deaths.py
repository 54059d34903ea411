"""Readers that die: the image that kills them is found and given up, the others are read."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.sources import Deadly
from ipsolve.datasets import open_source
from ipsolve.evaluation.batch import Batch
from ipsolve.runs.cells import Cell
from ray_jobs.pipeline.stages.reader_deaths import MAX_DEATHS, ReaderDeaths
from ray_jobs.pipeline.stages.reading import load, read_watched

CELL, OTHER = (Cell("sr4", name, 0, name) for name in ("cell", "other"))
BATCHES = [(CELL, [0, 1, 2]), (CELL, [3, 4, 5]), (CELL, [6, 7, 8]), (OTHER, [3, 4, 5])]


def restarted(location: Path, loader: Any, last_words: Path, handed_on: Callable[[Any], None] = id) -> int:
    """Read the batches in one process after another, as Ray does, until one comes to the end; return how many died."""

    def child() -> None:
        rows = []
        for row in read_watched(iter(BATCHES), 0, loader, str(location)):
            batch = Batch.of_row(row)
            rows.append({"image_ids": batch.image_ids, "errors": batch.errors})
            handed_on(batch)
        last_words.write_text(json.dumps(rows))

    died = 0
    while True:
        reader = multiprocessing.get_context("fork").Process(target=child)
        reader.start()
        reader.join()
        if reader.exitcode == 0:
            return died
        died += 1
        assert died < 20


def test_an_image_that_kills_its_reader_is_given_up_in_every_cell(tmp_path: Path) -> None:
    deadly = partial(load, Deadly(open_source("portraits:test"), 4), size=16)
    died = restarted(tmp_path, deadly, tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    ids = [open_source("portraits:test").image_ids(indices) for _, indices in BATCHES]
    given_up = {ids[1][1]: f"the process that read it died {MAX_DEATHS} times"}
    assert [row["errors"] for row in rows] == [{}, given_up, {}, given_up]
    assert [[*row["image_ids"], *row["errors"]] for row in rows] == [ids[0], [ids[1][i] for i in (0, 2, 1)], ids[2],
                                                                    [ids[3][i] for i in (0, 2, 1)]]  # fmt: skip
    # once to be careful from then on, and in each cell once to know the batch and as often as an image may
    assert died == 1 + 2 * (1 + MAX_DEATHS)


def test_readers_that_end_for_other_reasons_give_nothing_up(tmp_path: Path) -> None:
    left = tmp_path / "left"

    def node_is_taken_away(batch: Batch) -> None:  # while the row waits for an actor
        lives = int(left.read_text()) if left.exists() else 6
        if lives and batch.cell == OTHER:
            left.write_text(str(lives - 1))
            os.kill(os.getpid(), signal.SIGKILL)

    loader = partial(load, open_source("portraits:test"), size=16)
    assert restarted(tmp_path, loader, tmp_path / "rows.json", node_is_taken_away) == 6
    assert all(not any(row["errors"]) for row in json.loads((tmp_path / "rows.json").read_text()))


def test_a_stretch_that_nothing_happens_to_costs_a_question_and_a_note(tmp_path: Path) -> None:
    deaths = ReaderDeaths(str(tmp_path), 7)
    notes = list((tmp_path / "attempts").iterdir())
    before = notes[0].stat().st_mtime_ns

    def batches() -> Iterator[bool]:
        for number in range(7, 12):
            yield deaths.batch(number)
            deaths.rest()

    assert not any(batches())
    assert [path.stat().st_mtime_ns for path in notes] == [before]

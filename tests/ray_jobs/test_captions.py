"""Words of images go with them from the source to the worker."""

from __future__ import annotations

from pathlib import Path

from ipsolve.datasets import open_source
from ipsolve.evaluation.batch import Batch
from ipsolve.runs.cells import Cell
from ray_jobs.pipeline.listing import left_out
from ray_jobs.pipeline.stages.reading import load
from tests.datasets.test_parquet import png

CELL = Cell("task", "solver", 0, "hash")


def folder(path: Path) -> Path:
    for i in range(4):
        (path / f"{i}.png").write_bytes(png(i) if i != 2 else b"no image")
        if i != 1:
            (path / f"{i}.txt").write_text(f"words {i}")
    return path


def test_a_batch_has_the_captions_of_the_images_that_are_in_it(tmp_path: Path) -> None:
    source = open_source({"source": str(folder(tmp_path)), "captions": "txt"})
    batch = Batch.of_row(load(source, CELL, [0, 1, 2, 3], 8).to_row())
    assert batch.captions == {"0.png": "words 0", "3.png": "words 3"}
    assert batch.errors.keys() == {"2.png"}
    assert batch.select([1, 2]).captions == {"3.png": "words 3"}


def test_negative_captions_go_the_same_way(tmp_path: Path) -> None:
    for i in (1, 2, 3):
        (folder(tmp_path) / f"{i}.negative.txt").write_text(f"no {i}")
    source = open_source({"source": str(tmp_path), "captions": "txt", "negative_captions": "txt", "offset": 1})
    batch = Batch.of_row(load(source, CELL, [0, 1, 2], 8).to_row())
    assert batch.captions == {"3.png": "words 3"}
    assert batch.negative_captions == {"1.png": "no 1", "3.png": "no 3"}
    assert batch.select([0]).negative_captions == {"1.png": "no 1"}


def test_without_captions_a_batch_is_what_it_was(tmp_path: Path) -> None:
    batch = load(open_source(str(folder(tmp_path))), CELL, [0, 1], 8)
    assert batch.captions == batch.negative_captions == {}
    assert "captions" not in str(batch.to_row()["batch"])


def test_the_plan_counts_what_was_left_out() -> None:
    assert left_out({}) == []
    assert left_out({".txt": 2, "hidden": 5}) == ["left out 5 hidden, 2 .txt"]
    many = {f".{i}": 1 for i in range(9)}
    assert left_out(many) == ["left out 1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 1 .5, 3 of other kinds"]

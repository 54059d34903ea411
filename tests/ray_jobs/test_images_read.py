"""The digest of what a run has read: of every image, whatever the order and the stretches it was read in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.folder.content import images_read
from ray_jobs.tracking.described import describe
from tests.ray_jobs.small_runs import compact, do, experiment


def folder(path: Path, count: int = 6, changed: int | None = None) -> dict[str, Any]:
    path.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        if i == changed:
            pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(path / f"{i}.bmp")  # of a size that tells nothing
    return {"data": {"source": str(path)}}


def read_of(trial: Any) -> dict[str, Any]:
    found = images_read(RunFolder(trial.config.run_location), trial.image_ids)["images_read"]
    assert isinstance(found, dict)
    return found


def test_one_bit_of_the_last_image_is_another_digest_where_names_and_sizes_are_the_same(tmp_path: Path) -> None:
    trials = [experiment(tmp_path / f"runs{i}", **folder(tmp_path / f"set{i}", changed=i)) for i in (5, 7)]
    for trial in trials:
        do(trial)
    first, second = map(read_of, trials)
    assert (first["images"], second["images"]) == (6, 6)
    assert first["digest"] != second["digest"]
    assert trials[0].origin()["data"]["digest"] == trials[1].origin()["data"]["digest"]


def test_stretches_batches_and_gathering_do_not_change_it(tmp_path: Path) -> None:
    data = folder(tmp_path / "set")
    whole = experiment(tmp_path / "whole", **data, compute={"batch_size": 5, "num_actors": 1})
    parts = experiment(tmp_path / "parts", **data)
    do(whole)
    do(parts, batches=4)
    do(parts)
    assert read_of(parts) == read_of(whole)
    compact(RunFolder(parts.config.run_location))
    assert read_of(parts) == read_of(whole)


def test_the_digests_of_two_halves_are_of_other_images_than_the_whole(tmp_path: Path) -> None:
    folder(tmp_path / "set")
    halves = [{"source": str(tmp_path / "set"), "limit": 3}, {"source": str(tmp_path / "set"), "offset": 3}]
    found = []
    for number, data in enumerate([*halves, {"source": str(tmp_path / "set")}]):
        trial = experiment(tmp_path / str(number), data=data)
        do(trial)
        found.append(read_of(trial))
    assert [each["images"] for each in found] == [3, 3, 6]
    sums = [int(each["digest"], 16) for each in found]
    assert (sums[0] + sums[1]) % 2**256 == sums[2]  # so that merged runs add up


def test_rows_of_before_there_were_digests_have_none_and_a_name_belongs_to_it(tmp_path: Path) -> None:
    trial = experiment(tmp_path / "runs", **folder(tmp_path / "set"))
    do(trial)
    run = RunFolder(trial.config.run_location)
    before = read_of(trial)
    path = run.files("references")[0]
    table = pq.read_table(path)
    names = [f"other-{name}" for name in table["image_id"].to_pylist()]
    run.write_table(path, table.set_column(0, table.schema.field("image_id"), [names]))
    assert images_read(run)["images_read"]["digest"] != before["digest"]
    run.write_table(path, table.drop_columns("digest"))
    assert images_read(run) == {}


def test_mlflow_is_told_of_it(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    trial = experiment(tmp_path / "runs", **folder(tmp_path / "set"))
    do(trial)
    provenance = trial.origin() | images_read(RunFolder(trial.config.run_location), trial.image_ids)
    (found,) = describe(trial.resolved(), provenance).datasets()
    assert found.dataset.digest == read_of(trial)["digest"][:36]
    assert json.loads(found.dataset.profile)["images_read"] == read_of(trial)
    (without,) = describe(trial.resolved(), trial.origin()).datasets()
    assert without.dataset.digest == trial.origin()["data"]["digest"]

"""The files of a run open everywhere, and each row is read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pds
import pytest

from ipsolve.runs.results import (
    COUNTS,
    FAILURE_SCHEMA,
    RunFolder,
    cell_of,
    feature_matrix,
    image_metrics,
    reference_schema,
    result_schema,
)

DIM = 6


def rows(image_ids: list[str], seed: int = 0, psnr: float = 20.0, sample: int | None = 0) -> pa.Table:
    n = len(image_ids)
    values = {
        "image_id": image_ids, "seed": [seed] * n, "sample": [sample] * n,
        "psnr": [psnr] * n, "ssim": [0.5] * n, "lpips": [None] * n,
        "consistency": [1.0] * n, "seconds": [0.1] * n, "measurement": [None] * n, "reconstruction": [b"png"] * n,
        "features": list(np.ones((n, DIM), np.float16)), "inception_features": [None] * n,
    }  # fmt: skip
    schema = result_schema()
    return pa.table([values.get(field.name, [3] * n) for field in schema], schema=schema)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "demo")
    for task in ("sr4", "blur"):
        for solver in ("tv", "resample"):
            run.write_table(run.path("results", f"task={task}", f"solver={solver}", "abc-1.parquet"), rows(["a", "b"]))
            run.write_table(run.path("results", f"task={task}", f"solver={solver}", "abc-2.parquet"), rows(["c"]))
    return run


def test_opens_in_pandas(run: RunFolder) -> None:
    table = pd.read_parquet(run.path("results"))
    assert sorted(table.groupby(["task", "solver"], observed=True).size()) == [3, 3, 3, 3]
    assert len(table["features"].iloc[0]) == DIM
    assert bool(table["lpips"].isna().all())


def test_opens_in_pyarrow(run: RunFolder) -> None:
    table = pds.dataset(run.path("results"), partitioning="hive").to_table(filter=pds.field("task") == "sr4")
    assert len(table) == 6
    assert set(table["solver"].to_pylist()) == {"tv", "resample"}
    assert table.schema.field("features").type == pa.list_(pa.float16())


def test_opens_in_duckdb(run: RunFolder) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"SELECT task, solver, count(*) n, avg(psnr) FROM '{run.path('results')}/**/*.parquet' GROUP BY ALL"
    assert sorted(duckdb.sql(query).fetchall())[0] == ("blur", "resample", 3, 20.0)
    features = duckdb.sql(f"SELECT features FROM '{run.path('results')}/**/*.parquet' LIMIT 1").fetchall()[0]
    assert list(features[0]) == [1.0] * DIM


def test_half_written_files_are_invisible(run: RunFolder) -> None:
    Path(run.path("results", "task=sr4", "solver=tv", ".abc-3.parquet.tmp")).write_bytes(b"PAR1 torn")
    assert len(run.results(["psnr"])) == len(pd.read_parquet(run.path("results"))) == 12


def test_a_row_in_two_files_is_read_once(run: RunFolder) -> None:
    run.write_table(run.path("results", "task=sr4", "solver=tv", "abc-all.parquet"), rows(["a", "b", "c"]))
    run.write_table(run.path("results", "task=sr4", "solver=tv", "def-all.parquet"), rows(["a"], seed=1))
    table = run.results(["image_id", "seed", "task"], task="sr4", solver="tv").sort_by([("seed", "ascending")])
    assert table.to_pylist() == [
        *({"image_id": name, "seed": 0, "task": "sr4"} for name in "abc"),
        {"image_id": "a", "seed": 1, "task": "sr4"},
    ]


def test_the_columns_are_the_contract() -> None:
    names = (
        *("image_id", "seed", "sample", "psnr", "ssim", "lpips", "consistency"),
        *("denoiser_calls", "denoiser_backward_calls", "decoder_calls", "decoder_backward_calls", "encoder_calls"),
        *("seconds", "measurement", "reconstruction", "features", "inception_features"),
    )
    assert tuple(result_schema([]).names) == names
    own = result_schema(["zebra", "psnr", "ape"], ["stripes", "features"])
    assert tuple(own.names) == (*names[:6], "ape", "zebra", *names[6:], "stripes")
    assert image_metrics(["zebra", "lpips"]) == ("psnr", "ssim", "lpips", "zebra")
    truths = ["image_id", "image", "digest", "features", "inception_features", "stripes"]
    assert reference_schema(["stripes"]).names == truths
    assert [own.field(name).type for name in COUNTS] == [pa.int64()] * 5


def test_samples_of_an_image_are_rows_of_their_own(run: RunFolder) -> None:
    for sample in (1, 2):
        run.write_table(
            run.path("results", "task=sr4", "solver=tv", f"abc-s{sample}.parquet"), rows(["a"], 0, 9, sample)
        )
    run.write_table(run.path("results", "task=sr4", "solver=tv", "abc-crash.parquet"), rows(["a"], 0, 9, 2))
    table = run.results(["image_id", "sample", "psnr"], task="sr4", solver="tv").to_pandas()
    assert sorted(table[table["image_id"] == "a"][["sample", "psnr"]].to_numpy().tolist()) == [[0, 20], [1, 9], [2, 9]]
    assert len(table) == 5
    found = run.features("features", ("sr4", "tv"))
    assert sum(len(part) for part in found) == found.count == 5


def test_rows_of_an_earlier_run_are_of_its_only_sample_and_have_no_encoder_calls(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    earlier = rows(["a", "b"]).drop_columns(["sample", "encoder_calls"])
    run.write_table(run.path("results", "task=sr4", "solver=tv", "abc-1.parquet"), earlier)
    run.write_table(run.path("results", "task=sr4", "solver=tv", "abc-2.parquet"), rows(["b", "c"]))
    table = run.results(["image_id", "sample", "encoder_calls", "decoder_calls"]).sort_by("image_id").to_pylist()
    assert [row["image_id"] for row in table] == ["a", "b", "c"]
    assert {row["sample"] for row in table} == {0}
    assert (table[0]["encoder_calls"], table[2]["encoder_calls"], table[0]["decoder_calls"]) == (None, 3, 3)
    assert sum(map(len, run.features("features", ("sr4", "tv")))) == 3
    assert run.pick(["image_id", "sample"], ["a"], "results")["sample"].to_pylist() == [0]


def test_columns_and_filters(run: RunFolder) -> None:
    assert run.results(["psnr"], solver="tv").column_names == ["psnr"]
    assert len(run.results(solver="tv")) == 6
    assert set(run.results().column_names) == {"task", "solver", *result_schema().names}


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert len(run.results(["psnr", "task"])) == len(run.failures()) == len(run.references()) == 0
    assert run.failures().schema == FAILURE_SCHEMA


def test_features_come_back_as_a_matrix(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    columns = [["a", "b"], [b"png", b"png"], ["0", None], [np.arange(DIM, dtype=np.float16), None], [None, None]]
    run.write_table(run.path("references", "abc-1.parquet"), pa.table(columns, schema=reference_schema()))
    table = run.references()
    assert table.schema == reference_schema()
    assert feature_matrix(table["features"]).tolist() == [list(range(DIM))]
    assert feature_matrix(table["inception_features"]).shape[0] == 0


def test_features_in_pieces_are_those_of_the_tables_each_row_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    values = np.arange(6 * DIM, dtype=np.float16).reshape(6, DIM)
    columns = [list("abcdef"), [b"png"] * 6, [None] * 6, [*values[:5], None], [None] * 6]
    table = pa.table(columns, schema=reference_schema())
    run.write_table(run.path("references", "abc-1.parquet"), table)
    run.write_table(run.path("references", "abc-2.parquet"), table.slice(0, 2))  # left by a crashed compaction
    found = run.features("features", None)
    for _ in range(2):  # as often as there are metrics
        assert np.concatenate(list(found)).tolist() == values[:5].tolist()
        assert found.count == 5
    some = run.features("features", None, ["b", "d", "f"])
    assert np.concatenate(list(some)).tolist() == values[[1, 3]].tolist()
    assert list(run.features("inception_features", None)) == []
    assert list(RunFolder(tmp_path / "none").features("features", ("sr4", "tv"))) == []


def test_few_images_are_picked_out_of_the_files_that_hold_them(run: RunFolder) -> None:
    table = run.pick(["image_id", "psnr"], ["a", "c"], "results", "task=sr4", "solver=tv")
    every = run.results(["image_id", "psnr"], task="sr4", solver="tv").to_pylist()
    assert len(every) > len(table) > 0
    assert table.to_pylist() == [row for row in every if row["image_id"] in "ac"]
    for names, folder in ((["nobody"], "results"), (["a"], "absent")):
        assert len(run.pick(["image_id"], names, folder)) == 0


def test_the_cell_is_in_the_file_name(run: RunFolder) -> None:
    assert {cell_of(path) for path in run.files("results")} == {"abc"}


def test_writing_replaces_whole_files(run: RunFolder) -> None:
    run.write_json("status.json", {"state": "running"})
    run.write_json("status.json", {"state": "complete"})
    assert run.read_json("status.json") == {"state": "complete"}
    assert run.read_json("absent.json") == {}
    assert not [path for path in Path(run.root).rglob(".*") if path.is_file()]

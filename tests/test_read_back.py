"""The rows of a run in the tools that people open them with: names stay names, features stay numbers."""

from __future__ import annotations

import random
import string
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from tests.ray_jobs.small_runs import mapping

# the lines of docs/storage.md
READERS = {
    "duckdb": lambda place: duckdb.sql(f"SELECT * FROM '{place}/**/*.parquet'").df(),
    "pandas": lambda place: pd.read_parquet(place),
    "polars": lambda place: pl.read_parquet(place).to_pandas(),
    "pyarrow": lambda place: pq.read_table(place).to_pandas(),
}
# of the kinds that readers look for in the names of folders: dates, numbers, truth values, nothing
LIKE_OTHERS = [
    "e5",
    "E10",
    "x1e3",
    "T10",
    "today",
    "now",
    "yes",
    "no",
    "on",
    "t",
    "f",
    "N.A",
    "nil",
    "Inf1",
    "nan1",
    "INFI",
    "epochs",
    "truee",
    "nulls",
    "Jan.1",
    "a.5",
    "e",
    "i",
    "j",
    "D",
    "L1",
    "F32",
    "UTC",
    "id",
    "task",
    "solver",
]
REFUSED = ["01", "1e-3", "2026-01-01", "1", "-1", "", ".5", "_", "null", "NULL", "nan", "NaN", "inf", "Inf", "Infinity",
           "true", "True", "FALSE", "epoch", "None", "NA", "na"]  # fmt: skip


def random_names(count: int) -> list[str]:
    draw = random.Random(0)
    letters, more = string.ascii_letters, string.ascii_letters + string.digits + "_."
    return [draw.choice(letters) + "".join(draw.choices(more, k=draw.randrange(6))) for _ in range(count)]


def write(folder: Path, task: str, solver: str) -> str:
    place = folder / f"task={task}" / f"solver={solver}"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "psnr": [1.0]}), place / "x-1.parquet")
    return str(folder)


@pytest.mark.parametrize("reader", READERS)
def test_the_only_name_of_a_run_is_read_as_text(tmp_path: Path, reader: str) -> None:
    for number, name in enumerate([*LIKE_OTHERS, *random_names(40)]):
        build(Config, mapping("runs", tasks={name: {}}, solvers={name: {}}), "")  # it is allowed
        table = READERS[reader](write(tmp_path / str(number), name, name))
        assert [table["task"][0], table["solver"][0]] == [name, name]
        assert isinstance(table["task"][0], str)


@pytest.mark.parametrize("key", ["tasks", "solvers"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_something_else_to_a_reader_is_refused(key: str, name: str) -> None:
    with pytest.raises(RequestError, match=f"^{key}") as caught:
        build(Config, mapping("runs", **{key: {name: {}}}), "")
    assert "\n" not in str(caught.value)


def test_features_are_read_as_numbers_and_where_not_the_cast_of_the_documentation_helps(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    column = pa.array([*features, None], pa.list_(pa.float16()))
    place = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"image_id": list("abcdef"), "features": column}), place)
    means = features.astype(np.float64).mean(1)
    found = duckdb.sql(f"SELECT list_avg(features) m FROM '{place}' WHERE features IS NOT NULL").df()["m"]
    np.testing.assert_allclose(found, means, atol=1e-6)
    np.testing.assert_array_equal(np.stack(pd.read_parquet(place)["features"].dropna()), features)
    frame = pl.read_parquet(place).select(pl.col("features").cast(pl.List(pl.Float32)).list.mean()).drop_nulls()
    np.testing.assert_allclose(frame["features"].to_numpy(), means, atol=1e-6)
    table = pq.read_table(place)
    wide = table.set_column(1, "features", table["features"].cast(pa.list_(pa.float32())))
    assert pc.max(wide["features"].combine_chunks().flatten()).as_py() == features.max()
    again = duckdb.sql("SELECT max(list_max(features)) m FROM wide").df()["m"][0]
    assert again == features.max()

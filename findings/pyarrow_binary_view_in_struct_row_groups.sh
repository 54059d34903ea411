#!/bin/sh
# pyarrow 25.0.1 writing Parquet from a struct that holds a binary_view: the layout of an image column of `datasets`
# ({bytes, path}), once its bytes are views, as polars and DuckDB hand them to Arrow.
#
# Seen: write_table works while all rows fit into one row group, and raises "Slicing not implemented for BinaryView" (in
# some words) as soon as row_group_size is below the number of rows; the same bytes as `binary`, or a binary_view
# outside of a struct, are written in any row groups. So whether a set of images can be written depends on its length.
# ipsolve reads both layouts (tests/datasets/test_parquet.py); who makes files for it casts to large_binary first.
# Exits 0 where this is so, 1 where it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==25.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

plain = pa.array([b"a", b"b"], pa.binary())
view = plain.cast(pa.binary_view())
columns = {
    "struct<binary>": pa.StructArray.from_arrays([plain], ["bytes"]),
    "struct<binary_view>": pa.StructArray.from_arrays([view], ["bytes"]),
    "binary_view": view,
}
outcome = {}
for name, column in columns.items():
    for rows in (2, 1):
        try:
            pq.write_table(pa.table({"image": column}), "x.parquet", row_group_size=rows)
            outcome[name, rows] = "written"
        except pa.ArrowException as error:
            outcome[name, rows] = f"{type(error).__name__}: {error}"
        print(f"{name:20} row_group_size={rows}: {outcome[name, rows]}")
fails = {key for key, what in outcome.items() if what != "written"}
sys.exit(0 if fails == {("struct<binary_view>", 1)} else 1)
PYTHON

#!/bin/sh
# DuckDB 2.0.0 reading a hive-partitioned Parquet folder whose partition is called by a word.
#
# Seen: with automatic types, task=inf and task=infinity come back as the DATE 9999-12-31 (printed by Python's client),
# task=epoch as the DATE 1970-01-01; pyarrow 25.0.1 reads the same folders as text. With
# hive_types_autocast = false DuckDB gives text as well. A run whose method or task has such a name cannot be joined
# with itself across the two readers. ipsolve refuses such names (ipsolve/runs/config.py) and says how to read rows as
# text (docs/storage.md).
# Exits 0 where this is so, 1 where it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check duckdb==2.0.0 pyarrow==25.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import datetime
import os
import sys

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

found = {}
for word in ("inf", "infinity", "epoch", "deblur"):
    os.makedirs(f"{word}/task={word}")
    pq.write_table(pa.table({"psnr": [30.0]}), f"{word}/task={word}/rows.parquet")
    query = "SELECT task FROM read_parquet('%s/**/*.parquet', hive_partitioning = true%s)"
    guessed = duckdb.sql(query % (word, "")).limit(1).fetchall()[0][0]
    as_text = duckdb.sql(query % (word, ", hive_types_autocast = false")).limit(1).fetchall()[0][0]
    arrow = ds.dataset(word, partitioning="hive").to_table()["task"][0].as_py()
    found[word] = (guessed, as_text, arrow)
    print(f"{word:9} duckdb {guessed!r:32} without autocast {as_text!r:12} pyarrow {arrow!r}")
dates = [type(found[word][0]) is datetime.date for word in ("inf", "infinity", "epoch")]
text = all(found[word][1:] == (word, word) for word in found)
sys.exit(0 if all(dates) and text and found["deblur"][0] == "deblur" else 1)
PYTHON

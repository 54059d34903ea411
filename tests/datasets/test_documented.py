"""docs/data.md: every format that is read has a row, and every row a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ipsolve.datasets.containers import ARRAY_SUFFIXES, GRAY_SUFFIXES
from ipsolve.datasets.files import IMAGE_SUFFIXES
from ipsolve.datasets.opening import TABLE_SUFFIX, SourceSpec
from ipsolve.datasets.tars import TAR_SUFFIX
from ipsolve.requests.validation import field_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()
FORMATS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("|") and "tests/" in line]


def test_every_row_has_a_test_that_is_there() -> None:
    assert len(FORMATS) > 10
    for row in FORMATS:
        file, test = re.fullmatch(r" `(tests/[\w/]+\.py)::(\w+)` ", row[-1]).groups()  # type: ignore[union-attr]
        assert test in {node.name for node in ast.parse((ROOT / file).read_text()).body if hasattr(node, "name")}


def test_every_ending_that_is_read_and_every_key_is_in_a_table() -> None:
    named = {suffix for row in FORMATS for suffix in re.findall(r"`(\.[\w.]+)`", row[0])}
    assert {*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, *GRAY_SUFFIXES, TABLE_SUFFIX, TAR_SUFFIX} <= named
    keys = {
        key
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert {*field_names(SourceSpec)} - {"source"} <= keys

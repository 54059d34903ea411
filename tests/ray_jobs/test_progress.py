"""What a run says while it works, and while nothing comes back."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.pipeline import progress
from ray_jobs.pipeline.progress import Progress

REPORT: dict[str, Any] = {"cell": "a", "done": 1, "failed": 0, "seconds": 0.5, "notes": []}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[Progress, io.StringIO]:
    monkeypatch.setattr(progress, "SECONDS_OF_PATIENCE", 0.2)
    monkeypatch.setattr(progress, "lacking", lambda: "waiting for 2 x 1 GPU")
    stream = io.StringIO()
    plan: Any = SimpleNamespace(cells=[], images_missing=9, missing={"a": range(9)})
    return Progress(plan, stream=stream), stream


def test_nodes_that_are_taken_away_and_do_not_come_again_are_waited_for_aloud(
    shown: tuple[Progress, io.StringIO],
) -> None:
    bar, stream = shown
    with bar:
        for _ in range(4):
            bar.update(REPORT)
        time.sleep(0.7)
    assert stream.getvalue().count("no batch has ended for 0:00: waiting for 2 x 1 GPU") >= 2


def test_batches_that_take_long_are_not_a_silence(shown: tuple[Progress, io.StringIO]) -> None:
    bar, stream = shown
    with bar:
        bar.update(REPORT)
        bar.start = bar._last = time.monotonic() - 0.5  # the next comes after half a second
        bar.update(REPORT)
        time.sleep(0.7)
        assert "no batch" not in stream.getvalue()
        time.sleep(1.2)
    assert "no batch has ended for 0:01" in stream.getvalue()


def test_before_the_first_batch_the_wait_is_explained(shown: tuple[Progress, io.StringIO]) -> None:
    bar, stream = shown
    with bar:
        time.sleep(0.5)
    assert "no batch has ended yet: waiting for 2 x 1 GPU" in stream.getvalue()

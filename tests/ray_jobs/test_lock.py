"""One driver at a time, where there are no locks: a real S3-compatible server, shorter beats."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.folder import lock as module
from ray_jobs.pipeline.folder.lock import LOCK, alone
from tests.object_store import ObjectStore, object_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        for name, seconds in {"BEAT": 0.5, "SILENCE": 4.0, "SETTLING": 1.0}.items():
            patch.setattr(module, name, seconds)
        yield running


def test_a_driver_that_is_silent_about_its_work_keeps_its_run(store: ObjectStore) -> None:
    run = RunFolder("s3://bucket/busy")
    with alone(run, "run"):
        before = run.read_json(LOCK)
        time.sleep(1.5)  # no batch ends, nothing is written by anybody else
        assert run.read_json(LOCK)["beat"] > before["beat"]
        with pytest.raises(RequestError, match="name: another run is at work in s3://bucket/busy"), alone(run, "run"):
            pass
        assert run.read_json(LOCK)["owner"] == before["owner"]
    assert f"busy/{LOCK}" not in store.listed("busy")
    with alone(run, "run"):  # at once: its end is seen
        pass


def test_a_dead_driver_is_waited_for_and_followed(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder("s3://bucket/dead")
    run.write_json(LOCK, {"owner": "gone", "host": "node-7", "pid": 42, "beat": 3})
    start = time.monotonic()
    with alone(run, "run"):
        assert time.monotonic() - start >= module.SILENCE
    assert "process 42 on node-7 may be at work in s3://bucket/dead: listening" in capsys.readouterr().out


def test_of_drivers_that_start_at_once_one_works(store: ObjectStore) -> None:
    def drive(number: int) -> bool:
        try:
            with alone(RunFolder("s3://bucket/race"), "run"):
                time.sleep(5.0)
        except RequestError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(drive, range(3))) == 1


def test_a_folder_on_a_disk_is_free_when_its_driver_has_ended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with alone(run, "run"), pytest.raises(RequestError, match="another run is at work"), alone(run, "run"):
        pass
    with alone(run, "run"):
        pass


def test_a_driver_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    run, there, events = RunFolder(tmp_path / "run"), threading.Event(), list[str]()

    def end() -> None:
        with alone(run, "run"):
            there.set()
            time.sleep(1.0)  # as one does that has said how it ended and is putting its things away
            events.append("the first ends")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(end)
        there.wait()
        with alone(run, "run"):
            events.append("the second begins")
    assert events == ["the first ends", "the second begins"]

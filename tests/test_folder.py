"""Places: a path or a URI, files that are whole or absent, and nothing outside of the folder is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest

from ipsolve.files.filesystems import join, open_location, patiently
from ipsolve.files.folder import Folder
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import tidy
from tests.ray_jobs.small_runs import compact, do, experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["path", "file://", "memory://"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(
        {"path": tmp_path / "a", "file://": f"file://{tmp_path}/a"}.get(request.param, f"memory:/{tmp_path}/a")
    )


def test_files_are_written_listed_moved_and_deleted(folder: Folder) -> None:
    assert folder.files("results") == []
    assert folder.read_json("absent.json") == {}
    folder.write(folder.path("results", "x", "1.parquet"), b"one")
    folder.write(folder.path("results", "x", "1.parquet"), b"three")
    folder.write(folder.path("results", "2.parquet"), b"")
    folder.write_json("status.json", {"state": "running"})
    assert folder.sizes("results") == {folder.path("results", "2.parquet"): 0, folder.path("results/x/1.parquet"): 5}
    folder.move(folder.path("results/x/1.parquet"), folder.path("aside/y/1.parquet"))
    assert folder.read(folder.path("aside/y/1.parquet")) == b"three"
    assert folder.read_json("status.json") == {"state": "running"}
    folder.empty("aside")
    folder.empty("never there")
    folder.delete(folder.files("results"))
    assert folder.files("aside") == folder.files("results") == []
    assert folder.exists("status.json")
    assert folder.sweep() == 0


@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"[]", b"\xff"])
def test_a_json_file_that_a_power_cut_left_is_as_if_it_were_not_there(folder: Folder, content: bytes) -> None:
    folder.write(folder.path("status.json"), content)
    assert folder.read_json("status.json") == {}


@pytest.mark.parametrize("key", ["results/../../escaped/abc-1.parquet", "results/./abc-1.parquet"])
def test_an_object_whose_name_leads_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    folder = Folder(f"memory:/{tmp_path}/a")
    folder.write(folder.path("results/abc-1.parquet"), b"fine")
    store = fsspec.filesystem("memory").store
    store[f"{tmp_path}/a/{key}"] = store[f"{tmp_path}/a/results/abc-1.parquet"]
    with pytest.raises(RequestError, match="is not the name of a file of a run"):
        folder.files("results")


def test_a_run_on_a_filesystem_of_fsspec_is_that_of_a_disk(tmp_path: Path) -> None:
    here, there = experiment(tmp_path), experiment(f"memory:/{tmp_path}")
    for trial in (here, there):
        do(trial)
        compact(RunFolder(trial.config.run_location))
        assert do(trial).images_missing == 0
    names = ["task", "solver", "image_id", "psnr", "reconstruction"]
    tables = [RunFolder(trial.config.run_location).results(names) for trial in (here, there)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 10


def test_names_are_added_before_the_query() -> None:
    assert join("s3://bucket/runs/?region=x&scheme=http", "demo") == "s3://bucket/runs/demo?region=x&scheme=http"
    assert join("runs/", "demo") == "runs/demo"
    assert join("runs?", "demo") == "runs?/demo"  # a path may hold a question mark
    trial = experiment("s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http")
    assert trial.config.run_location == "s3://bucket/runs/small?endpoint_override=127.0.0.1:9&scheme=http"
    run = RunFolder(trial.config.run_location)
    assert run.path("results") == "bucket/runs/small/results"
    assert run.address("report.html").startswith("s3://bucket/runs/small/report.html?endpoint_override=")


def test_schemes_reach_their_filesystems() -> None:
    filesystem, path = open_location("gs://anonymous@bucket/runs/a")
    assert isinstance(filesystem, pafs.GcsFileSystem)
    assert path == "bucket/runs/a"
    filesystem, path = open_location("s3://bucket/run%20s?region=eu-west-1")
    assert isinstance(filesystem, pafs.S3FileSystem)
    assert (path, filesystem.region) == ("bucket/run s", "eu-west-1")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nonsense://a/b", "output: cannot open 'nonsense://a/b': Protocol not known"),
        ("s3://", "output: an s3 URI names a bucket"),
        ("s3://bucket/a?acl=public", "output: unknown option 'acl' of an s3 URI; allowed: region"),
        ("s3://bucket/../a?region=x", r"output: must not hold '\.\.'"),
        ("memory://a/../../b", r"output: must not hold '\.\.'"),
        ("runs\0", "output: must not hold a NUL"),
    ],
)
def test_what_cannot_be_opened_is_one_line(location: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        RunFolder(location)
    assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, signal, sys
from ipsolve.files.folder import Folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a file can grow to 1000 bytes, as on a disk that is full
Folder(sys.argv[1]).write(sys.argv[1] + "/results/a.parquet", bytes(100_000))
"""


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


KILLED = """
import os, sys
import pyarrow.fs
from ipsolve.files.folder import Folder
folder = Folder(sys.argv[1])
class Dying:
    type_name = "local"
    def __getattr__(self, name): return getattr(pyarrow.fs.LocalFileSystem(), name)
    def move(self, source, target): os._exit(9)
folder.filesystem = Dying()
folder.write(sys.argv[1] + "/results/task=t/solver=s/a.parquet", b"half")
"""


def test_what_a_killed_writer_left_is_tidied_and_nothing_else(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    run = RunFolder(trial.config.run_location)
    line = [sys.executable, "-c", KILLED, run.root]
    assert subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60).returncode == 9
    left = [path for path in Path(run.root).rglob(".*") if path.is_file()]
    assert len(left) == 1
    theirs = Path(run.root, ".nfs0123456789")
    theirs.touch()
    assert run.files("results") == []
    notes = tidy(RunIndex(run, trial.all_cells), trial.all_cells, set(trial.image_ids))
    assert "1 files that a killed process left" in notes[0]
    assert [path for path in Path(run.root).rglob("*") if path.is_file()] == [theirs]


@pytest.mark.parametrize("inside", ["attempts", "results/task=sr4", "superseded"])
def test_a_link_out_of_the_run_is_refused_and_not_followed(tmp_path: Path, inside: str) -> None:
    trial = experiment(tmp_path)
    run, outside = RunFolder(trial.config.run_location), tmp_path / "outside"
    (outside / "solver=x").mkdir(parents=True)
    precious = outside / "solver=x" / "abc-1.parquet"
    precious.write_bytes(b"precious")
    link = Path(run.root, inside)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(RequestError, match="is a symbolic link to a folder"):
        tidy(RunIndex(run, trial.all_cells), trial.all_cells, set(trial.image_ids))
    assert precious.read_bytes() == b"precious"


def test_a_link_to_a_file_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    folder, outside = Folder(tmp_path / "run"), tmp_path / "outside.json"
    outside.write_text("precious")
    os.makedirs(folder.root)
    Path(folder.path("status.json")).symlink_to(outside)
    folder.write_json("status.json", {})
    assert outside.read_text() == "precious"
    assert folder.read_json("status.json") == {}


def test_patience_is_for_what_may_pass() -> None:
    failures = [
        OSError("AWS Error NETWORK_CONNECTION during PutObject"),
        TimeoutError("slow"),
        ConnectionError(104, "x"),
    ]

    def passing() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert patiently(passing, (0, 0, 0)) == "done"
    for lasting in (
        OSError(28, "No space left on device"),
        FileNotFoundError(2, "x"),
        OSError("AWS Error ACCESS_DENIED"),
    ):
        tried = []

        def fails(lasting: OSError = lasting, tried: list[int] = tried) -> None:
            tried.append(1)
            raise lasting

        with pytest.raises(OSError, match=str(lasting.args[-1])):
            patiently(fails, (0, 0, 0))
        assert len(tried) == 1

"""`ray job submit` against a head that runs: outcome, stop and resume, the token, and what is uploaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from tests.ray_jobs.ray_head import JOB, ROOT, Head, running_head, wait_for
from tests.ray_jobs.small_runs import mapping

pytestmark = pytest.mark.xdist_group("ray, too")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head("--num-cpus=4") as head:
        yield head


def config(folder: Path, **changes: Any) -> str:
    """Write a small configuration; return its path."""
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(mapping(folder, **changes)))
    return str(path)


def seconds(run: RunFolder) -> dict[str, float]:
    """Return the measured seconds of each image: computed again, they would be others."""
    return {row["image_id"]: row["seconds"] for row in run.results(["image_id", "seconds"]).to_pylist()}


@pytest.mark.slow
@pytest.mark.timeout(900)  # two jobs, which a busy machine makes slow
def test_a_stopped_job_leaves_a_run_that_the_same_command_completes(head: Head, tmp_path: Path) -> None:
    changes = {
        "data": {"source": "portraits:test", "limit": 6},
        "solvers": {"tv": {"solver": "tv", "num_steps": 2000}},
        "compute": {"batch_size": 1, "num_actors": 2},
    }
    command = (*JOB, config(tmp_path, **changes))
    run = RunFolder(tmp_path / "small")
    submitted = head.submit("first", *command, wait=False)
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: len(run.files("results")) >= 2, 400)
    assert head.ray("job", "stop", "first").returncode == 0
    assert head.job("first")["status"] == "STOPPED"
    status = run.read_json("status.json")
    assert (status["state"], status["exit_code"]) == ("interrupted", cli.INTERRUPTED)
    survived = seconds(run)
    assert 2 <= len(survived) < 6

    done = head.submit("second", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert head.job("second")["driver_exit_code"] == cli.COMPLETE
    status = run.read_json("status.json")
    assert (status["state"], status["exit_code"]) == ("complete", cli.COMPLETE)
    assert len(seconds(run)) == 6
    assert seconds(run) == seconds(run) | survived
    assert f"on the cluster at {head.address}" in head.log("second")
    provenance = run.read_json("provenance.json")
    assert (provenance["ray_job_id"], provenance["earlier"][0]["ray_job_id"]) == ("second", "first")
    assert provenance["git_commit"] == "the one submitted"


def test_a_wrong_request_is_one_line_in_the_log_and_exit_code_2(head: Head, tmp_path: Path) -> None:
    done = head.submit("wrong", *JOB, config(tmp_path), "compute.batch_sise=2")
    assert done.returncode == 1  # Ray's command line has no other
    assert head.job("wrong")["driver_exit_code"] == cli.WRONG_REQUEST
    printed = [line for line in head.log("wrong").splitlines() if "batch_sise" in line and "entrypoint" not in line]
    assert len(printed) == 1
    assert printed[0].startswith("error: ")
    assert "Traceback" not in head.log("wrong")
    assert not (tmp_path / "small").exists()


def test_a_client_without_the_token_is_refused(head: Head) -> None:
    without = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")}
    for env in (without, head.env | {"RAY_AUTH_TOKEN": "another"}):
        refused = head.ray("job", "list", env=env | {"HOME": str(head.folder)})  # a home without a token of its own
        assert refused.returncode == 1
        assert "uthentication" in refused.stderr
        assert "Jobs" not in refused.stdout
    assert head.ray("job", "list").returncode == 0


def test_the_upload_is_small_and_all_that_is_needed(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    package = tmp_path / "package.zip"

    def pack(folder: str, excludes: list[str], is_file: bool = False) -> None:
        create_package(folder, package, include_gitignore=True, excludes=excludes)

    runtime_env = yaml.safe_load((ROOT / "deploy" / "runtime_env.yaml").read_text()) | {"working_dir": str(ROOT)}
    upload_working_dir_if_needed(runtime_env, include_gitignore=True, scratch_dir=str(tmp_path), upload_fn=pack)
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < 40 * 2**20  # of the 100 MiB that Ray takes
    kept_back = {".git", ".venv", ".ci", "tests", "docs", "notebooks", "benchmarks", "deploy", "runs", "mlruns"}
    assert {name.split("/")[0] for name in names} & kept_back == set()
    assert {"configs/demo.yaml", "ray_jobs/evaluate.py", "tuning/sweep.py"} <= set(names)
    assert any(name.startswith("ipsolve/priors/builtin/") and name.endswith(".safetensors") for name in names)
    assert all(name in names for name in _package_files())


def _package_files() -> list[str]:
    return [str(path.relative_to(ROOT)) for folder in ("ipsolve", "ray_jobs") for path in (ROOT / folder).rglob("*.py")]

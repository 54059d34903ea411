"""A cluster that has shrunk to its head: work asks for the GPUs that may come, and says what it waits for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.cluster.autoscaling import Nodes, at_most
from tests.ray_jobs.ray_head import JOB, ROOT, Head, running_head
from tests.ray_jobs.small_runs import mapping

pytestmark = pytest.mark.xdist_group("ray, too")

# logical GPUs: torch has none, and the actors say so and work on the CPU
GPU_WORKER = {
    "resources": {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 1,
}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head("--num-cpus=3", node_types={"gpu_worker": GPU_WORKER}) as head:
        yield head


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_work_asks_for_gpus_that_are_not_there_yet_and_begins_with_the_first(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    # two actors, and one GPU is all that will ever come
    compute = {"batch_size": 1, "num_actors": 2, "accelerator_type": "L4"}
    path.write_text(yaml.safe_dump(mapping(tmp_path, compute=compute)))
    done = head.submit("gpu", *JOB, str(path), upload=False)
    log = head.log("gpu")
    assert head.job("gpu")["driver_exit_code"] == cli.COMPLETE, done.stdout + done.stderr
    assert "2 actors of 1 threads, 1 GPU (L4) each on the cluster" in log
    assert "a GPU that torch cannot use" in log
    run = RunFolder(tmp_path / "small")
    assert run.read_json("status.json")["message"] == "complete: 10 images"


WAITS = """
import ray
from ray_jobs.pipeline import progress
from ray_jobs.pipeline.cluster import connection as cluster
progress.SECONDS_OF_PATIENCE = 3
cluster.connect(0)

@ray.remote(num_gpus=2)
class Actor: ...

actor = Actor.remote()
class Plan:
    cells, images_missing, missing = [], 1, {}
with progress.Progress(Plan()) as shown:
    __import__("time").sleep(8)
"""


def test_what_is_waited_for_is_said(head: Head) -> None:
    env = head.env | {"RAY_ADDRESS": head.address}
    done = subprocess.run([sys.executable, "-c", WAITS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "no batch has ended yet" in line)
    assert "waiting for 1 x 2 GPU + 1 CPU, " in line
    assert re.search(r"the cluster has \d of \d CPUs free and \d of \d GPUs free", line)


def test_a_kind_of_gpu_that_no_node_has_or_will_have_is_refused(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(mapping(tmp_path, compute={"accelerator_type": "H100"})))
    line = [sys.executable, "-m", "ray_jobs.evaluate", str(path), "--dry-run"]
    env = head.env | {"RAY_ADDRESS": head.address}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    words = "error: compute.accelerator_type: no node has 'H100'; there are: L4\n"
    assert (done.returncode, done.stderr) == (cli.WRONG_REQUEST, words)


def total(nodes: Nodes, resource: str) -> float:
    return sum(count * resources.get(resource, 0.0) for count, resources in nodes)


def worker(most: int, **resources: float) -> dict[str, Any]:
    return {"resources": resources, "node_config": {}, "max_workers": most}


def test_a_configuration_at_its_largest() -> None:
    config = {
        "max_workers": 5,
        "head_node_type": "head",
        "available_node_types": {
            "head": worker(0, CPU=4),
            "cpu": worker(4, CPU=16),
            "one": worker(4, CPU=8, GPU=1),
            "four": worker(3, CPU=32, GPU=4),
        },
    }
    # three of the type with most GPUs, two of the next, and then the five are used up
    assert total(at_most(config), "GPU") == 3 * 4 + 2 * 1
    assert total(at_most(config), "CPU") == 4 + 3 * 32 + 2 * 8
    repository = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert total(at_most(repository), "GPU") == repository["max_workers"]

"""What an actor gets of a machine or a cluster: what fits is counted by node, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import Compute
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.evaluate import main as evaluate
from ray_jobs.pipeline.cluster.allocation import allocate, fitting, over_nodes
from tests.ray_jobs.small_runs import mapping

pytestmark = pytest.mark.xdist_group("ray, too")

SMALL, LARGE, GPUS = {"CPU": 8.0}, {"CPU": 16.0}, {"CPU": 96.0, "GPU": 8.0}
HEAD = {"CPU": 4.0}


@pytest.mark.parametrize(
    ("gpus", "nodes", "compute", "expected"),
    [
        (0.0, [(1, SMALL)], {}, (8, 1)),
        (0.0, [(1, LARGE)], {}, (8, 2)),
        (0.0, [(1, LARGE), (20, SMALL)], {}, (16 + 20 * 8, 1)),  # and not ten actors of 16, which fit on one node
        (0.0, [(3, {"CPU": 6.0})], {"cpus_per_actor": 4}, (3, 4)),
        (0.0, [(1, SMALL)], {"num_actors": 3, "cpus_per_actor": 2}, (3, 2)),
        (1.0, [(1, HEAD), (8, GPUS)], {}, (64, 12)),  # an eighth of a node, not of the cluster
        (0.25, [(1, GPUS)], {}, (32, 3)),
        (0.4, [(2, {"CPU": 8.0, "GPU": 1.0})], {}, (4, 1)),  # two on each GPU, not five on two
        (0.3, [(1, {"CPU": 8.0, "GPU": 4.0})], {}, (12, 1)),
        (2.0, [(3, {"CPU": 8.0, "GPU": 3.0}), (9, {"CPU": 8.0, "GPU": 1.0})], {}, (3, 1)),
        (1.0, [(1, HEAD)], {}, (1, 1)),  # GPUs that may come, nobody knows how many
    ],
)
def test_actors_are_counted_by_node(
    gpus: float, nodes: list[tuple[int, dict[str, float]]], compute: dict[str, Any], expected: tuple[int, int]
) -> None:
    share = over_nodes(Compute(**compute), gpus, nodes, "some nodes")
    assert (share.num_actors, share.cpus) == expected
    assert (share.gpus, share.device) == (gpus, "cuda" if gpus else "cpu")


def test_shares_that_are_not_exact_in_binary_fill_a_gpu() -> None:
    assert [fitting({"GPU": 1.0}, 1 / n, 1) for n in range(1, 50)] == list(range(1, 50))
    assert fitting({"CPU": 4.0}, 0.2, 1) == 0


def refused(**compute: Any) -> str:
    with pytest.raises(RequestError) as caught:
        allocate(Compute(**compute), 1)
    return str(caught.value)


def test_what_this_machine_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert refused(cpus_per_actor=100_000).startswith("compute.cpus_per_actor: 100000 asked for, and this machine has ")
    assert refused(gpus_per_actor=99).startswith("compute.gpus_per_actor: 99 asked for, and this machine has ")
    assert refused(accelerator_type="L4").startswith("compute.accelerator_type: is a choice among the nodes")
    assert allocate(Compute(num_actors=7), 3).num_actors == 3  # an actor without a batch loads its prior for nothing


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with one logical CPU and nothing more each."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    found.add_node(num_cpus=1, num_gpus=0)
    yield found
    ray.shutdown()
    found.shutdown()


def test_what_no_node_of_a_cluster_has_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    assert refused(gpus_per_actor=1) == (
        "compute.gpus_per_actor: 1 asked for, and no node of the cluster has more than 0"
    )
    assert refused(cpus_per_actor=2) == (
        "compute.cpus_per_actor: 2 asked for, and no node of the cluster has more than 1"
    )


def test_actors_that_take_all_cpus_of_a_cluster_do_not_starve_the_readers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    path = tmp_path / "x.yaml"
    compute = {"batch_size": 1, "num_actors": 3}  # one more than fit, as after the loss of a node
    path.write_text(yaml.safe_dump(mapping(tmp_path, compute=compute)))
    assert evaluate([str(path)]) == cli.COMPLETE
    assert len(RunFolder(tmp_path / "small").results(["image_id"])) == 10

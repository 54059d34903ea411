"""What a trial gets of a machine and of a cluster, and that what it can never get is refused under its own key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ipsolve.requests.errors import RequestError
from tests.tuning.small_sweeps import sweep
from tuning.allocation import allocation_of

pytestmark = pytest.mark.xdist_group("ray, too")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of two nodes with two logical CPUs each and, on one of them, one GPU."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
    found.add_node(num_cpus=2, num_gpus=1)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    ray.shutdown()
    found.shutdown()


def refused(folder: Path, **compute: Any) -> str:
    with pytest.raises(RequestError) as caught:
        allocation_of(sweep(folder, compute=compute))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_share_that_is_no_share_is_refused_under_its_own_key(tmp_path: Path) -> None:
    assert refused(tmp_path, gpus_per_trial=1.5).startswith("compute.gpus_per_trial: must be at most 1")


def test_a_trial_that_fits_no_node_is_refused_and_one_that_does_is_not(tmp_path: Path, cluster: Cluster) -> None:
    assert refused(tmp_path, gpus_per_trial=2) == (
        "compute.gpus_per_trial: 2 asked for, and no node of the cluster has more than 1"
    )
    # the cluster has four cores, no node has them
    assert refused(tmp_path, gpus_per_trial=0, cpus_per_trial=3) == (
        "compute.cpus_per_trial: 3 asked for, and no node of the cluster has more than 2"
    )
    assert allocation_of(sweep(tmp_path, compute={"gpus_per_trial": 0.5})).num_actors == 2
    assert allocation_of(sweep(tmp_path, compute={"gpus_per_trial": 0, "cpus_per_trial": 2})).cpus == 2

"""cluster.yaml is a cluster that Ray accepts, and runs the versions that are pinned."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_ray_refuses_an_unknown_key(cluster):
    # the schema is Ray's own: a check that accepted everything would pass the test above
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(cluster | {"idle_minutes": 3})


def test_gpu_workers_start_from_none_and_the_head_has_no_gpu(cluster):
    head = cluster["head_node_type"]
    assert "GPU" not in cluster["available_node_types"][head]["resources"]
    workers = [node for name, node in cluster["available_node_types"].items() if name != head]
    assert workers
    for worker in workers:
        assert worker["min_workers"] == 0
        assert worker["resources"]["GPU"] >= 1
        assert worker["max_workers"] <= cluster["max_workers"]


def test_nodes_run_the_pinned_ray_and_uv():
    text = (ROOT / "cluster.yaml").read_text()
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)[1]
    assert set(re.findall(r"rayproject/ray:([\d.]+)-py311", text)) == {pinned}
    uv = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert re.findall(r"uv==(\S+)", text) == [uv]

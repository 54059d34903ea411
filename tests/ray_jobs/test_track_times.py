"""When the work of a run was done, as MLflow is told of it by a whole run on a local Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from ray_jobs import cli, evaluate
from tests.ray_jobs.small_runs import experiment
from tests.ray_jobs.test_track import client, runs

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    yield
    ray.shutdown()


def test_times_are_those_of_the_work_whenever_a_run_is_sent(tmp_path: Path) -> None:
    begun = int(time.time() * 1000)
    assert evaluate.evaluate(experiment(tmp_path)) == cli.COMPLETE
    over = int(time.time() * 1000)
    sent = runs(client(tmp_path))
    parent = sent.pop("small")
    assert begun - 1000 <= parent.info.start_time < parent.info.end_time <= over + 1000  # kept to the second
    assert sent.keys() == {"sr4 / ddnm", "sr4 / pinv"}
    for child in sent.values():
        assert parent.info.start_time <= child.info.start_time < child.info.end_time <= parent.info.end_time
        # of the cell itself, not of the run, to which starting the actors belongs
        assert child.info.end_time - child.info.start_time < parent.info.end_time - parent.info.start_time

    # on with it, later: the same runs, from their first start to the new end
    assert evaluate.evaluate(experiment(tmp_path, data={"source": "portraits:test", "limit": 7})) == cli.COMPLETE
    later = runs(client(tmp_path))
    assert later["small"].info.run_id == parent.info.run_id
    assert later["small"].info.start_time == parent.info.start_time
    assert later["small"].info.end_time >= later["sr4 / ddnm"].info.end_time > parent.info.end_time
    assert later["sr4 / ddnm"].info.start_time == sent["sr4 / ddnm"].info.start_time

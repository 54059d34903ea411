"""What every test runs under: one thread, nothing sent to anybody, no download."""

import os
from collections.abc import Iterator

import pytest
import torch

# read when the libraries are first imported, and inherited by Ray's workers
os.environ.update(
    DO_NOT_TRACK="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
)

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share out the tests to processes by file, and let two Rays at a time run: more starve each other on two cores.

    Modules that start Ray say ``pytestmark = pytest.mark.xdist_group("ray")``, or ``"ray, too"``. They come first,
    being the longest. Beside the slow ones of both ``"ray, long"`` plays every fault.
    """
    for item in items:
        if not any(item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: not next(item.iter_markers("xdist_group")).args[0].startswith("ray"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of two cores, for the tests of a module; ``usefixtures`` of a module that needs no more."""
    import ray

    from ray_jobs.pipeline.cluster import connection

    connection.connect(num_cpus=2)
    yield
    ray.shutdown()

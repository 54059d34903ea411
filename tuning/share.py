"""How many trials run at once, and what each of them gets of the machine or the cluster."""

from __future__ import annotations

import os

from ipsolve.config import Compute
from ipsolve.errors import RequestError
from ipsolve.validation import build
from ray_jobs.pipeline.autoscaling import nodes_to_come
from ray_jobs.pipeline.cluster import Share, cluster_address, plan_share
from tuning.request import Sweep, renamed

KEYS = {
    "compute.num_actors": "compute.concurrent_trials",
    "compute.gpus_per_actor": "compute.gpus_per_trial",
    "compute.cpus_per_actor": "compute.cpus_per_trial",
}


def share_of(sweep: Sweep) -> Share:
    """Return the trials that run at once and what each of them gets.

    Raises:
        RequestError: no machine has room for a trial.
    """
    compute = sweep.config.compute
    wanted = {
        "num_actors": compute.concurrent_trials,
        "gpus_per_actor": compute.gpus_per_trial,
        "cpus_per_actor": compute.cpus_per_trial,
    }
    with renamed(KEYS):
        asked = build(Compute, wanted, "compute")
        if plan_share(Compute(), 1).gpus == 0:  # without GPUs trials use cores
            asked = build(Compute, wanted | {"gpus_per_actor": 0.0}, "compute")
        share = plan_share(asked, sweep.config.search.num_trials)
    if cluster_address() is not None:
        _check_room(share)
    return share


def _check_room(share: Share) -> None:
    """Raise RequestError where a trial fits no node of the cluster, for which Ray would wait for ever."""
    nodes = _nodes()
    # beside a GPU the cores of a trial are threads, not asked of Ray
    key, kind, asked = (
        ("gpus_per_trial", "GPU", share.gpus) if share.gpus else ("cpus_per_trial", "CPU", float(share.cpus))
    )
    most = max((node.get(kind, 0.0) for node in nodes), default=asked)
    if asked > most:
        raise RequestError(f"compute.{key}: {asked:g} asked for, and no node of the cluster has more than {most:g}")


def _nodes() -> list[dict[str, float]]:
    """Return the resources of the nodes that there are and may be, empty where that cannot be known.

    What may be is in a file on the head (see :func:`nodes_to_come`); on Kubernetes its operator alone knows.
    """
    import ray

    to_come = [resources for _, resources in nodes_to_come()]
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    on_head = head in ("127.0.0.1", ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if not to_come and (not on_head or "KUBERNETES_SERVICE_HOST" in os.environ):
        return []
    up = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in up if node["Alive"]] + to_come

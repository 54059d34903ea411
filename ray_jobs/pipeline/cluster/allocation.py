"""Sharing out a machine or a cluster: how many actors, and what each of them gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import Compute
from ray_jobs.pipeline.cluster.autoscaling import Nodes, nodes_to_come
from ray_jobs.pipeline.cluster.connection import cluster_address, connect

PARTS = 8  # an actor's threads are this part of its node, where nothing is asked for


@dataclass(frozen=True)
class Allocation:
    """The solver actors of a run and what each of them gets."""

    num_actors: int
    gpus: float
    cpus: int
    where: str
    accelerator_type: str | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpus > 0 else "cpu"

    def __str__(self) -> str:
        kind = f" ({self.accelerator_type})" if self.accelerator_type else ""
        gpus = f", {self.gpus:g} GPU{kind} each" if self.gpus else ""
        return f"{self.num_actors} actors of {self.cpus} threads{gpus} on {self.where}"


def allocate(compute: Compute, num_batches: int) -> Allocation:
    """Share out this machine, or the cluster that will be joined, as it is or as its autoscaler may make it.

    Raises:
        RequestError: the request can never be met.
    """
    if cluster_address() is not None:
        up, possible, known = _nodes_of_cluster(compute.accelerator_type)
        where, has = f"the cluster at {cluster_address()}", "no node of the cluster has more than"
    elif compute.accelerator_type is not None:
        raise RequestError(
            "compute.accelerator_type", "is a choice among the nodes of a cluster (RAY_ADDRESS is not set)"
        )
    else:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        up, possible, known = [(1, {"CPU": cores, "GPU": torch.cuda.device_count()})], [], True
        where, has = f"this machine ({cores} cores)", "this machine has"
    gpus = compute.gpus_per_actor
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for _, node in [*up, *possible]) else 0.0
    if compute.accelerator_type is not None and not gpus:
        raise RequestError("compute.accelerator_type", "needs actors with GPUs (compute.gpus_per_actor is 0)")
    # the nodes that are up may be some of those that can be
    allocations = [over_nodes(compute, gpus, nodes, where) for nodes in (up, possible) if nodes]
    best = max(allocations, key=lambda each: each.num_actors * each.cpus)
    if known:
        # beside a GPU the cores of an actor are threads, which are not asked of Ray
        key, kind, asked = ("gpus", "GPU", best.gpus) if gpus else ("cpus", "CPU", float(best.cpus))
        most = max(node.get(kind, 0) for _, node in [*up, *possible])
        if asked > max(most, 1 if kind == "CPU" else 0):
            raise RequestError(f"compute.{key}_per_actor", f"{asked:g} asked for, and {has} {most:g}")
    return replace(best, num_actors=min(best.num_actors, max(num_batches, 1)))


def over_nodes(compute: Compute, gpus: float, nodes: Nodes, where: str) -> Allocation:
    """Share out some nodes, whether or not they have room for what is asked for; each actor is on one of them."""
    if isinstance(compute.cpus_per_actor, int):
        cpus = compute.cpus_per_actor
    else:
        # of the kind of node that most of the work is done on: a head may be small, and one node unusual
        _, node = max(nodes, key=lambda each: each[0] * each[1].get("GPU" if gpus else "CPU", 0))
        cpus = max(1, int(node.get("CPU", 1)) // max(PARTS, fitting(node, gpus, 1) if gpus else 0))
    if isinstance(compute.num_actors, int):
        actors = compute.num_actors
    else:
        actors = max(1, sum(count * fitting(node, gpus, cpus) for count, node in nodes))
    return Allocation(actors, gpus, cpus, where, compute.accelerator_type)


def fitting(node: Mapping[str, float], gpus: float, cpus: int) -> int:
    """Return how many actors fit on a node."""
    if not gpus:
        return int(node.get("CPU", 0) // cpus)
    there = int(node.get("GPU", 0))
    # a share is of one GPU: of 0.4 each there are two on each
    return there // int(gpus) if gpus >= 1 else there * int(1 / gpus + 1e-9)


def _nodes_of_cluster(accelerator_type: str | None) -> tuple[Nodes, Nodes, bool]:
    """Return the nodes that are up, those that there may be, and whether these are all that will ever be.

    Only nodes with a given kind of GPU count, where one is given. What may be is in a file on the head of a cluster
    that Ray has launched (:func:`nodes_to_come`); on Kubernetes its operator alone knows.
    """
    connect(0)
    import ray

    up: Nodes = [(1, node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    possible = nodes_to_come()
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    on_head = head in ("127.0.0.1", ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    known = bool(possible) or (on_head and "KUBERNETES_SERVICE_HOST" not in os.environ)
    if accelerator_type is not None:
        mark = "accelerator_type:"
        kinds = {name.removeprefix(mark) for _, node in [*up, *possible] for name in node if name.startswith(mark)}
        if accelerator_type not in kinds:
            there = ", ".join(sorted(kinds)) or "none"
            raise RequestError("compute.accelerator_type", f"no node has {accelerator_type!r}; there are: {there}")
        up, possible = ([each for each in nodes if mark + accelerator_type in each[1]] for nodes in (up, possible))
    return up, possible, known

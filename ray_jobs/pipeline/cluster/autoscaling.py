"""Clusters that grow and shrink with the work: what there may be, and what work waits for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

Nodes = list[tuple[int, dict[str, float]]]  # how many, and the resources of each


def nodes_to_come() -> Nodes:
    """Return the nodes that the autoscaler of the cluster may have at most, the head among them.

    Of a cluster that has shrunk to its head only this tells that work may ask for GPUs. Ray has a call for it
    (``get_max_resources_from_cluster_config``), which nothing in open Ray feeds; so the answer is in the file that
    its autoscaler was started with. That runs beside a job on a head of the cluster launcher; where it does not, as
    on Kubernetes, the list is empty.
    """
    import psutil
    import ray

    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        words = [word[2:].split("=", 1) for word in process.info["cmdline"] or () if word.startswith("--")]
        options = {word[0]: word[1] for word in words if len(word) == 2}
        if "autoscaling-config" in options and options.get("gcs-address") == address:
            with open(os.path.expanduser(options["autoscaling-config"]), encoding="utf-8") as file:
                return at_most(yaml.safe_load(file))
    return []


def at_most(config: Mapping[str, Any]) -> Nodes:
    """Return the nodes of a launcher's configuration at its largest: those with most GPUs, up to ``max_workers``."""
    head, left = config.get("head_node_type"), config.get("max_workers", 0)
    kinds = {name: dict(kind.get("resources") or {}) for name, kind in config["available_node_types"].items()}
    nodes = [(1, kinds[head])] if head in kinds else []
    for name in sorted(kinds.keys() - {head}, key=lambda name: -kinds[name].get("GPU", 0)):
        count = min(config["available_node_types"][name].get("max_workers", left), left)
        nodes.append((count, kinds[name]))
        left -= count
    return nodes


def lacking() -> str:
    """Return, for a person who waits, what work asks for and what the cluster has and is about to have."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    amounts = [f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU")]
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    asked = [each for demand in status.resource_demands.ray_task_actor_demand for each in demand.bundles_by_count]
    wanted = [f"{each.count} x {_amounts(each.bundle)}" for each in asked if each.bundle]
    starting = sum(launch.count for launch in status.pending_launches) + len(status.pending_nodes)
    failed = {launch.details or launch.ray_node_type_name for launch in status.failed_launches}
    parts = (
        f"waiting for {', '.join(wanted)}" if wanted else "",
        f"the cluster has {' and '.join(amounts)}",
        f"{starting} nodes are starting" if starting else "",
        f"nodes that failed to start: {'; '.join(sorted(failed))}" if failed else "",
    )
    return ", ".join(filter(None, parts))


def _amounts(bundle: Mapping[str, float]) -> str:
    return " + ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.items(), reverse=True))

"""Ray: joining a cluster or starting one on this machine, and sharing it out."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ipsolve.config import Compute
from ipsolve.errors import RequestError
from ray_jobs.pipeline.autoscaling import nodes_to_come, total

READERS = 2  # logical CPUs that no solver actor may take
OBJECT_STORE_BYTES = 256 * 2**20
START_ATTEMPTS = 3
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True)
class Share:
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


def cluster_address() -> str | None:
    """Return the address of the cluster this process belongs to, None to start one here."""
    return os.environ.get("RAY_ADDRESS") or None  # set inside of a Ray job, too


def plan_share(compute: Compute, num_batches: int) -> Share:
    """Share out this machine, or leave the counts to the cluster that will be joined.

    Raises:
        RequestError: the request can never be met.
    """
    if cluster_address() is not None:
        resources = _cluster_resources(compute.accelerator_type)
        return _share(compute, num_batches, *resources, f"the cluster at {cluster_address()}")
    if compute.accelerator_type is not None:
        raise RequestError(
            "compute.accelerator_type: is a choice among the nodes of a cluster (RAY_ADDRESS is not set)"
        )
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _share(compute, num_batches, cores, torch.cuda.device_count(), cores, f"this machine ({cores} cores)")


def _share(compute: Compute, num_batches: int, cores: int, num_gpus: float, largest: int, where: str) -> Share:
    gpus = (1.0 if num_gpus else 0.0) if compute.gpus_per_actor == "auto" else compute.gpus_per_actor
    if gpus > num_gpus and cluster_address() is None:
        raise RequestError(f"compute.gpus_per_actor: {gpus:g} asked for, this machine has {num_gpus:g} GPUs")
    cpus = max(1, min(cores // 8, largest)) if compute.cpus_per_actor == "auto" else compute.cpus_per_actor
    most = int(num_gpus / gpus) if gpus else cores // cpus
    actors = max(most, 1) if compute.num_actors == "auto" else compute.num_actors
    if compute.accelerator_type is not None and not gpus:
        raise RequestError("compute.accelerator_type: needs actors with GPUs (compute.gpus_per_actor is 0)")
    return Share(min(actors, max(num_batches, 1)), gpus, cpus, where, compute.accelerator_type)


def _cluster_resources(accelerator_type: str | None) -> tuple[int, float, int]:
    """Return the CPUs for actors and the GPUs of the cluster at its largest, and the CPUs of its largest node.

    Only nodes with a given kind of GPU count, where one is given.
    """
    connect(0)
    import ray

    up = [(1, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    possible = nodes_to_come()
    if accelerator_type is not None:
        mark = "accelerator_type:"
        kinds = {name.removeprefix(mark) for _, node in [*up, *possible] for name in node if name.startswith(mark)}
        if accelerator_type not in kinds:
            there = ", ".join(sorted(kinds)) or "none"
            raise RequestError(f"compute.accelerator_type: no node has {accelerator_type!r}; there are: {there}")
        up = [each for each in up if mark + accelerator_type in each[1]]
        possible = [each for each in possible if mark + accelerator_type in each[1]]
    largest = max(int(resources.get("CPU", 0)) for _, resources in [*up, *possible])
    # the nodes that are up may be some of those that can be
    cpus, gpus = (max(total(up, kind), total(possible, kind)) for kind in ("CPU", "GPU"))
    return max(int(cpus) - READERS, 1), gpus, largest


def connect(num_cpus: int) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray here with logical CPUs for the actors and the readers."""
    # Ray reads these when it is imported; its C++ side logs to stderr whatever the Python side is told
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if cluster_address() is None:
        keep_to_loopback()
    import psutil
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster_address() is not None:
        options |= {"address": cluster_address()}
    else:
        options |= {
            "address": "local",  # never a cluster that merely happens to run on this machine
            "num_cpus": num_cpus + READERS,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    children = set(psutil.Process().children(recursive=True))
    for attempts_left in reversed(range(START_ATTEMPTS)):
        try:
            with _silent_stderr():
                ray.init(**options)
            break
        except Exception:  # a bare Exception is what Ray raises when a busy machine took longer than its 30 seconds
            ray.shutdown()
            for process in set(psutil.Process().children(recursive=True)) - children:
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # a start that failed leaves its servers running until this process ends
            if not attempts_left:
                raise
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray replaces the handler by its own


def keep_to_loopback() -> None:
    """Let the servers of the Ray that is going to be started here listen on 127.0.0.1, and ask for a token of its own.

    Told 127.0.0.1 alone, Ray takes the address of the host and listens on all interfaces; it listens on loopback where
    it holds that there are no clusters, as it does on Macs and says in this variable (Ray 2.60, measured on Linux).
    """
    os.environ.setdefault(_CLUSTERS, "0")
    constants = sys.modules.get("ray._private.ray_constants")  # read when it was imported, which may have been before
    if constants is not None and os.environ[_CLUSTERS] == "0":
        constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    # a local Ray asks for a token by default, but would make one and leave it in the home directory for good
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what C++ code writes to stderr nowhere: Ray announces its log level there. Exceptions are not affected."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def quiet_data() -> None:
    """Set Ray Data up for this pipeline; each line is a trap of ray.md."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # 3: the job prints its own progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.use_datasource_v2 = False  # 1a: the V2 reader starts 32 actor processes to list files
    # 1b: one block = one batch, so that no batch is ragged, none waits for another, and a death costs one batch.
    # A block is closed when it has reached the target size: with a target of one byte, after each row.
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = -1  # 1d: a batch may take longer than the default half hour
    context.max_consecutive_actor_init_deaths = 3  # a process that is killed while it loads the prior ended the run
    context.max_errored_blocks = 0  # 1d: more would drop whole blocks in silence; the actors keep their own books

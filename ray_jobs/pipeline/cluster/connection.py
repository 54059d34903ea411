"""Ray: joining a cluster or starting one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

READERS = 2  # logical CPUs of a Ray that is started here, beside those of the actors
OBJECT_STORE_BYTES = 256 * 2**20
START_ATTEMPTS = 3
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def cluster_address() -> str | None:
    """Return the address of the cluster this process belongs to, None to start one here."""
    return os.environ.get("RAY_ADDRESS") or None  # set inside of a Ray job, too


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


def restarts() -> int:
    """Return how many actors of this driver have been started again, by the books of the cluster."""
    import ray
    from ray._private import state  # what is public needs a dashboard, which a Ray that is started here has not

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    found: dict[str, dict[str, Any]] = state.actors(job_id=job)
    return sum(int(each["NumRestarts"]) for each in found.values())


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

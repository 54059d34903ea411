"""How many trials run at once, and what each of them gets of the machine or the cluster."""

from __future__ import annotations

from ipsolve.requests.validation import build
from ipsolve.runs.config import Compute
from ray_jobs.pipeline.cluster.allocation import Allocation, allocate
from tuning.request import Sweep, renamed

KEYS = {
    "compute.num_actors": "compute.concurrent_trials",
    "compute.gpus_per_actor": "compute.gpus_per_trial",
    "compute.cpus_per_actor": "compute.cpus_per_trial",
}


def allocation_of(sweep: Sweep) -> Allocation:
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
        if allocate(Compute(), 1).gpus == 0:  # without GPUs trials use cores
            asked = build(Compute, wanted | {"gpus_per_actor": 0.0}, "compute")
        return allocate(asked, sweep.config.search.num_trials)

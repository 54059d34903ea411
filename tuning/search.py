"""The search as Ray Tune runs it: actors, their share of the machine, and the study behind its two interfaces."""

from __future__ import annotations

import logging
import os
from typing import Any

from ray_jobs.pipeline.cluster import connection as cluster
from ray_jobs.pipeline.cluster.allocation import Allocation
from ray_jobs.pipeline.stages.worker import MAX_DEATHS
from tuning.ledger import Ledger
from tuning.problem import Problem

TUNE = "ray_tune"  # Tune's own records, which nothing is read from again


def search(
    ledger: Ledger, problem: Problem, location: str, allocation: Allocation, written: bytes | None = None
) -> None:
    """Run the missing trials of a sweep.

    Args:
        written: ``config.yaml`` of the sweep, which every trial has to see.

    Raises:
        RuntimeError: something that is no trial's fault broke the sweep off; the trials at work are unfinished.
    """
    # read when Tune is imported; its own handler of Ctrl-C would end a sweep as if it were complete
    os.environ.update(TUNE_DISABLE_SIGINT_HANDLER="1", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    cluster.connect(allocation.num_actors * allocation.cpus)
    from ray import tune

    from tuning.adapters import StudyScheduler, StudySearcher, StudyStopper
    from tuning.trial import Place, Runner

    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what happens to trials is told by the ledger
    place = Place(location, allocation.device, allocation.cpus, written)
    trainable = tune.with_parameters(Runner, problem=problem, place=place)
    # ray.md 1c: next to a GPU the CPU share only sets threads
    resources = {"cpu": 0 if allocation.gpus else allocation.cpus, "gpu": allocation.gpus}
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger),
            scheduler=StudyScheduler(ledger),
            num_samples=-1,  # the searcher says when it has no more
            max_concurrent_trials=allocation.num_actors,
            reuse_actors=True,  # the prior is loaded once per actor, not once per trial
            trial_dirname_creator=_folder,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=os.path.abspath(location),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            # each time in another process: a node that is lost, or a device, is not the trial's fault
            failure_config=tune.FailureConfig(max_failures=MAX_DEATHS - 1),
            stop=StudyStopper(ledger),
        ),
    )
    tuner.fit()
    if ledger.fault is not None:
        raise RuntimeError(ledger.fault)


def _folder(trial: Any) -> str:
    return f"trial_{trial.config['number']}_{trial.trial_id}"

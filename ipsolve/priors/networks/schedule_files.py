"""Scheduler files that are not of the DDPM family: our own layout, and ``ScoreSdeVeScheduler``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ipsolve.priors.networks.prediction import PREDICTIONS, OnSchedule, Prediction, UnitRangeScore, Velocity
from ipsolve.priors.schedule_spec import load_schedule
from ipsolve.priors.schedules import FlowMatching, Schedule
from ipsolve.priors.sde_schedules import GeometricVe
from ipsolve.requests.errors import RequestError


def read_schedule(config: Mapping[str, Any], where: str) -> tuple[Schedule, Prediction] | None:
    """Return the schedule of a ``scheduler_config.json`` and how its network is to be read; None for other families.

    Two kinds are read: ``{"schedule": NAME, ..., "prediction_type": TYPE}``, a schedule as configurations name it
    (:mod:`ipsolve.priors.schedule_spec`), which is what ``python -m ray_jobs.convert`` writes; and diffusers'
    ``ScoreSdeVeScheduler``. The first kind may say ``trained_on: {"schedule": NAME, ...}`` of a network that is to be
    read at the levels of another schedule than its own: a denoiser as a flow, say.

    Raises:
        RequestError: unknown keys, or values out of their range.
    """
    if "schedule" in config:
        try:
            return _own(config)
        except RequestError as error:
            raise RequestError(where, str(error)) from None
    if config.get("_class_name") == "ScoreSdeVeScheduler":
        return _score_sde_ve(config, where), UnitRangeScore()
    return None


def _own(config: Mapping[str, Any]) -> tuple[Schedule, Prediction]:
    kind, trained_on = config.get("prediction_type"), config.get("trained_on")
    kinds = {**PREDICTIONS, "velocity": Velocity()}
    if not isinstance(kind, str) or kind not in kinds:
        raise RequestError(f"prediction_type {kind!r}; allowed: {', '.join(kinds)}")
    others = ("prediction_type", "trained_on")
    schedule = load_schedule({key: value for key, value in config.items() if key not in others})
    trained = schedule if trained_on is None else load_schedule(trained_on)
    if kind == "velocity" and not isinstance(trained, FlowMatching):
        raise RequestError("prediction_type 'velocity' is of networks trained on schedule: flow_matching")
    return schedule, kinds[kind] if trained_on is None else OnSchedule(kinds[kind], trained)


def _score_sde_ve(config: Mapping[str, Any], where: str) -> GeometricVe:
    """Return the schedule for images in [-1, 1]; the file has those of [0, 1] (defaults: those of diffusers)."""
    try:
        smallest, largest = (float(config.get(k, d)) for k, d in (("sigma_min", 0.01), ("sigma_max", 1348.0)))
    except (TypeError, ValueError):
        raise RequestError(where, "sigma_min and sigma_max must be numbers") from None
    if not 0 < smallest < largest < math.inf:
        raise RequestError(where, f"sigma_min must be above 0 and below sigma_max (got {smallest} and {largest})")
    return GeometricVe(2 * smallest, 2 * largest)

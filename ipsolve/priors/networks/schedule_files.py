"""Scheduler files that are not of the DDPM family: our own layout, and ``ScoreSdeVeScheduler``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ipsolve.priors.networks.prediction import PREDICTIONS, Prediction, UnitRangeScore
from ipsolve.priors.schedule_spec import load_schedule
from ipsolve.priors.schedules import Schedule
from ipsolve.priors.sde_schedules import GeometricVe
from ipsolve.requests.errors import RequestError


def read_schedule(config: Mapping[str, Any], where: str) -> tuple[Schedule, Prediction] | None:
    """Return the schedule of a ``scheduler_config.json`` and how its network is to be read; None for other families.

    Two kinds are read: ``{"schedule": NAME, ..., "prediction_type": TYPE}``, a schedule as configurations name it
    (:mod:`ipsolve.priors.schedule_spec`), which is what ``python -m ray_jobs.convert`` writes; and diffusers'
    ``ScoreSdeVeScheduler``.

    Raises:
        RequestError: unknown keys, or values out of their range.
    """
    if "schedule" in config:
        kind = config.get("prediction_type")
        if not isinstance(kind, str) or kind not in PREDICTIONS:
            raise RequestError(where, f"prediction_type {kind!r}; allowed: {', '.join(PREDICTIONS)}")
        try:
            schedule = load_schedule({key: value for key, value in config.items() if key != "prediction_type"})
            return schedule, PREDICTIONS[kind]
        except RequestError as error:
            raise RequestError(where, str(error)) from None
    if config.get("_class_name") == "ScoreSdeVeScheduler":
        return _score_sde_ve(config, where), UnitRangeScore()
    return None


def _score_sde_ve(config: Mapping[str, Any], where: str) -> GeometricVe:
    """Return the schedule for images in [-1, 1]; the file has those of [0, 1] (defaults: those of diffusers)."""
    try:
        smallest, largest = (float(config.get(k, d)) for k, d in (("sigma_min", 0.01), ("sigma_max", 1348.0)))
    except (TypeError, ValueError):
        raise RequestError(where, "sigma_min and sigma_max must be numbers") from None
    if not 0 < smallest < largest < math.inf:
        raise RequestError(where, f"sigma_min must be above 0 and below sigma_max (got {smallest} and {largest})")
    return GeometricVe(2 * smallest, 2 * largest)

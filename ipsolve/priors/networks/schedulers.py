"""``scheduler/scheduler_config.json`` of a folder in diffusers layout: the noise schedule of a network.

Which sampler a folder is published with says nothing of the network, and its solver settings are not read. Keys that
are absent have the default of the class that the file names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ipsolve.priors.networks.diffusers_folder import Config, component_folder, read_config, setting
from ipsolve.priors.networks.prediction import (
    PREDICTIONS,
    ConsistencyFunction,
    LatentConsistencyFunction,
    Preconditioned,
    Prediction,
    Velocity,
)
from ipsolve.priors.networks.schedule_files import read_schedule
from ipsolve.priors.schedules import (
    DiscreteSchedule,
    Edm,
    FlowMatching,
    Schedule,
    cosine,
    from_betas,
    linear,
    scaled_linear,
    zero_terminal_snr,
)
from ipsolve.requests.errors import RequestError

FILE = "scheduler_config.json"
_SMALLEST_ALPHA = 2.0**-24  # of the last entry, in place of 0, for samplers that divide by it: diffusers


class Reading(NamedTuple):
    """A noise schedule, and how the network on it is to be read."""

    schedule: Schedule
    prediction: Prediction


def load_schedule(folder: Path, tokens: int | None = None) -> Reading:
    """Return what the scheduler of a folder says.

    Args:
        tokens: patches of an image that a transformer reads, on which the shift of a flow may depend; None: not known.

    Raises:
        RequestError: a class, schedule or prediction type that is not supported, or a number out of its range.
    """
    config = read_config(folder, "scheduler", FILE)
    where = f"prior.path: {component_folder(folder, 'scheduler') / FILE}"
    if found := read_schedule(config, where):
        return Reading(*found)
    config = {"_class_name": "DDIMScheduler", **config}
    name = config["_class_name"]
    if str(name) not in SCHEDULERS:
        raise RequestError(f"{where}: _class_name {name!r}; allowed: {', '.join(sorted(SCHEDULERS))}")
    try:
        return SCHEDULERS[name](config if tokens is None else _of_length(config, tokens))
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _discrete(config: Config) -> Reading:
    if setting(config, "use_flow_sigmas") or setting(config, "prediction_type") == "flow_prediction":
        return _flow(config, "flow_shift")
    if setting(config, "timestep_type") == "continuous":
        raise RequestError("timestep_type 'continuous' is not supported")
    kind = str(setting(config, "prediction_type"))
    if kind not in PREDICTIONS:
        raise RequestError(f"prediction_type {kind!r}; allowed: {', '.join(PREDICTIONS)}")
    if config.get("variance_type") == "learned":
        raise RequestError("variance_type 'learned' is not supported; allowed: learned_range, or a fixed one")
    clean = setting(config, "set_alpha_to_one")
    if clean is None:
        clean = setting(config, "final_sigmas_type") != "sigma_min"
    offset = 0 if setting(config, "steps_offset") is None else int(_number(config, "steps_offset", 0, 1))
    schedule = replace(_table(config), steps_offset=offset, end_clean=bool(clean))
    if config.get("rescale_betas_zero_snr"):
        if setting(config, "rescale_betas_zero_snr") is None:
            raise RequestError(f"rescale_betas_zero_snr is not a key of {config['_class_name']}")
        floor = 0.0 if config["_class_name"].startswith(("DDIM", "DDPM")) else _SMALLEST_ALPHA
        schedule = zero_terminal_snr(schedule, floor)
        if kind == "epsilon" and floor == 0:
            raise RequestError("rescale_betas_zero_snr with prediction_type 'epsilon': pure noise says nothing of x_0")
    return Reading(schedule, PREDICTIONS[kind])


def _table(config: Config) -> DiscreteSchedule:
    if (betas := setting(config, "trained_betas")) is not None:
        return _trained(betas, config.get("num_train_timesteps"))
    n = int(_number(config, "num_train_timesteps", 2, 1_000_000))
    start, end = (_number(config, key, 0, 1, ends=False) for key in ("beta_start", "beta_end"))
    match setting(config, "beta_schedule"):
        case "linear":
            return linear(start, end, n)
        case "scaled_linear":
            return scaled_linear(start, end, n)
        case "squaredcos_cap_v2":
            return cosine(n)
        case "sigmoid" if config["_class_name"] == "DDPMScheduler":
            return from_betas(start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, n))))
        case other:
            raise RequestError(f"beta_schedule {other!r}; allowed: linear, scaled_linear, squaredcos_cap_v2")


def _trained(betas: object, stated: object) -> DiscreteSchedule:
    try:
        values = np.asarray(betas, dtype=np.float64)
    except (ValueError, TypeError):
        values = np.zeros(0)
    if values.ndim != 1 or len(values) < 2 or not ((values > 0) & (values < 1)).all():  # NaN is neither
        raise RequestError("trained_betas must be a list of two or more numbers, each above 0 and below 1")
    if stated is not None and stated != len(values):
        raise RequestError(f"trained_betas are {len(values)} numbers, num_train_timesteps is {stated}")
    return from_betas(values)


def _edm(config: Config) -> Reading:
    low, high, rho, data = (_number(config, key, 0, 1e6, ends=False) for key in
                            ("sigma_min", "sigma_max", "rho", "sigma_data"))  # fmt: skip
    if low >= high:
        raise RequestError(f"sigma_min is {low:g}, sigma_max {high:g}; it must be below")
    kind = setting(config, "prediction_type")
    if kind not in ("epsilon", "v_prediction"):
        raise RequestError(f"prediction_type {kind!r}; allowed: epsilon, v_prediction")
    return Reading(Edm(low, high, rho), Preconditioned(data, 1 if kind == "epsilon" else -1))


def _consistency(config: Config) -> Reading:
    low, high, rho, data = (_number(config, key, 0, 1e6, ends=False) for key in
                            ("sigma_min", "sigma_max", "rho", "sigma_data"))  # fmt: skip
    if low >= high:
        raise RequestError(f"sigma_min is {low:g}, sigma_max {high:g}; it must be below")
    return Reading(Edm(low, high, rho), ConsistencyFunction(low, data))


def _latent_consistency(config: Config) -> Reading:
    schedule, prediction = _discrete(config)
    scaling = _number(config, "timestep_scaling", 0, 1e6, ends=False)
    return Reading(schedule, LatentConsistencyFunction(prediction, scaling))


def _flow(config: Config, shift: str = "shift") -> Reading:
    if setting(config, "use_dynamic_shifting"):
        raise RequestError("use_dynamic_shifting is not supported; state the shift of your image size")
    n = _number(config, "num_train_timesteps", 1, 1_000_000)
    return Reading(FlowMatching(_number(config, shift, 0, 1e3, ends=False)), Velocity(n))


def _of_length(config: Config, tokens: int) -> Config:
    """Return a flow's configuration with the shift of images of ``tokens`` patches in place of the rule for it.

    mu is linear in the number of patches, and the shift is exp(mu), or mu where the file says so: the schedule of FLUX
    (``calculate_shift`` and ``time_shift`` of diffusers: t -> exp(mu) / (exp(mu) + 1 / t - 1) is that of a shift).
    """
    if not config["_class_name"].startswith("FlowMatch") or not setting(config, "use_dynamic_shifting"):
        return config
    short, long = (_number(config, f"{key}_image_seq_len", 1, 1e9) for key in ("base", "max"))
    low, high = (_number(config, f"{key}_shift", -100, 100) for key in ("base", "max"))
    if short >= long:
        raise RequestError(f"base_image_seq_len is {short:g}, max_image_seq_len {long:g}; it must be below")
    mu = low + (high - low) * (tokens - short) / (long - short)
    match setting(config, "time_shift_type"):
        case "exponential":
            shift = math.exp(mu)
        case "linear":
            shift = mu
        case other:
            raise RequestError(f"time_shift_type {other!r}; allowed: exponential, linear")
    return {**config, "use_dynamic_shifting": False, "shift": shift}


def _number(config: Config, key: str, low: float, high: float, ends: bool = True) -> float:
    """Return a number of a configuration; RequestError where it is none, or out of its range."""
    value = setting(config, key)
    inside = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if inside:
        inside = low <= value <= high if ends else low < value < high
    if not inside:
        words = f"from {low:g} to {high:g}" if ends else f"above {low:g} and below {high:g}"
        raise RequestError(f"{key} is {value!r}; it must be a number {words}")
    return float(value)


_TABLES = """DDPM DDPMParallel DDIM DDIMParallel PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete
    KDPM2Discrete KDPM2AncestralDiscrete DPMSolverMultistep DPMSolverSinglestep DEISMultistep UniPCMultistep"""
SCHEDULERS: dict[str, Callable[[Config], Reading]] = {
    **{f"{name}Scheduler": _discrete for name in _TABLES.split()},
    "CMStochasticIterativeScheduler": _consistency,
    "LCMScheduler": _latent_consistency,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
}

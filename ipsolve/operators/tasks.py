"""A task, operator and noise, as one flat mapping: ``{operator: super_resolution, factor: 4, noise_std: 0.01}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipsolve.operators.base import OPERATORS, OperatorSpec
from ipsolve.operators.noise import NOISES, Noise
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry, did_you_mean
from ipsolve.requests.validation import build, field_names, unknown_key


def parse_task(mapping: object, where: str = "task") -> tuple[OperatorSpec, Noise]:
    """Return the operator and the noise that a flat mapping names.

    ``operator`` is required. ``noise`` (default ``gaussian``) names the noise model, whose own keys
    (``noise_std``, ``photons``, ...) stand beside those of the operator.

    Args:
        where: path of the mapping in the request, for messages.

    Raises:
        RequestError: one line that names the key, what is wrong and what is allowed.
    """
    if not isinstance(mapping, Mapping):
        raise RequestError(f"{where}: must be a mapping of keys to values (got {mapping!r})")
    if "operator" not in mapping:
        hint = next((did for key in mapping if (did := did_you_mean(key, ["operator"]))), "")
        raise RequestError(f"{where}.operator: is required{hint}; allowed: {', '.join(OPERATORS)}")
    spec_class = _look_up(OPERATORS, mapping["operator"], f"{where}.operator")
    noise_class = _look_up(NOISES, mapping.get("noise", "gaussian"), f"{where}.noise")
    noise_keys, spec_keys = field_names(noise_class), field_names(spec_class)
    allowed = ["operator", *spec_keys, "noise", *noise_keys]
    for key in mapping:
        if key not in allowed:
            raise unknown_key(where, str(key), allowed)
    spec = build(spec_class, {key: mapping[key] for key in spec_keys if key in mapping}, where)
    noise = build(noise_class, {key: mapping[key] for key in noise_keys if key in mapping}, where)
    return spec, noise


def describe_task(spec: OperatorSpec, noise: Noise) -> dict[str, Any]:
    """Return the flat mapping of a task with every default written out; :func:`parse_task` reads it back."""
    return {"operator": spec.name, **_fields(spec), "noise": noise.name, **_fields(noise)}


def _fields(part: OperatorSpec | Noise) -> dict[str, Any]:
    values = {name: getattr(part, name) for name in field_names(type(part))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _look_up(registry: Registry[Any], name: object, where: str) -> type[Any]:
    try:
        return registry[str(name)]
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None

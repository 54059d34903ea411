"""A task: operator and noise, as one flat mapping ``{operator: super_resolution, factor: 4, noise_std: 0.01}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipsolve.operators.base import OPERATORS, OperatorSpec
from ipsolve.operators.noise import NOISES, Noise
from ipsolve.requests.errors import RequestError, did_you_mean
from ipsolve.requests.traits import Traits
from ipsolve.requests.validation import build, field_names, unknown_key
from ipsolve.signal import Shape, Signal


@dataclass(frozen=True)
class Task:
    """What is measured of an image, and whether a solver is told the drawn operator."""

    operator: OperatorSpec
    noise: Noise
    blind: bool = False

    def check(self, image_shape: Shape) -> None:
        """Raise RequestError if the operator or the noise is not for such signals, before any compute."""
        self.operator.check_signal(image_shape)
        if self.noise.of_intensities and Signal.of(image_shape).kind == "complex":
            raise RequestError(
                "noise", f"{self.noise.name} is of intensities, a complex signal has none; allowed: gaussian"
            )

    @property
    def traits(self) -> Traits:
        """What a solver can rely on: the traits of the operator, ``known`` or ``blind``, ``noisy`` or ``noiseless``."""
        has = {"blind" if self.blind else "known", "noisy" if self.noise.std > 0 else "noiseless"}
        return self.operator.traits | has


def parse_task(mapping: object, where: str = "task") -> Task:
    """Return the task that a flat mapping names.

    ``operator`` is required. ``blind: true`` keeps what is drawn of the operator (a kernel) from the solvers. ``noise``
    (default ``gaussian``) names the noise model, whose own keys (``noise_std``, ``photons``, ...) stand beside those of
    the operator.

    Args:
        where: path of the mapping in the request, for messages.

    Raises:
        RequestError: one line that names the key, what is wrong and what is allowed.
    """
    if isinstance(mapping, Mapping) and "operator" not in mapping:
        hint = next((did for key in mapping if (did := did_you_mean(key, ["operator"]))), "")
        raise RequestError(f"{where}.operator", f"is required{hint}; allowed: {', '.join(OPERATORS)}")
    spec_class, rest = OPERATORS.named(mapping, where, "operator")
    noise_class, rest = NOISES.named({"noise": "gaussian", **rest}, where, "noise")
    noise_keys, spec_keys = field_names(noise_class), field_names(spec_class)
    allowed = ["operator", *spec_keys, "noise", *noise_keys, "blind"]
    for key in rest:
        if key not in allowed:
            raise unknown_key(where, str(key), allowed)
    spec = build(spec_class, {key: rest[key] for key in spec_keys if key in rest}, where)
    noise = build(noise_class, {key: rest[key] for key in noise_keys if key in rest}, where)
    blind = rest.get("blind", False)
    if not isinstance(blind, bool):
        raise RequestError(f"{where}.blind", f"must be true or false (got {blind!r})")
    if blind and not spec_class.blind:
        can = ", ".join(name for name in OPERATORS if OPERATORS[name].blind)
        raise RequestError(f"{where}.blind", f"nothing of {spec.name} can be kept from a solver; allowed: {can}")
    return Task(spec, noise, blind)


def describe_task(task: Task) -> dict[str, Any]:
    """Return the flat mapping of a task with every default written out; :func:`parse_task` reads it back."""
    flat = {"operator": task.operator.name, **_fields(task.operator), "noise": task.noise.name, **_fields(task.noise)}
    return flat | ({"blind": True} if task.blind else {})


def _fields(part: OperatorSpec | Noise) -> dict[str, Any]:
    values = {name: getattr(part, name) for name in field_names(type(part))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

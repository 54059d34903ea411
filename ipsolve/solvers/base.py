"""What a solver is: a frozen dataclass of hyper-parameters with one method, ``solve``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ipsolve.operators.base import Operator, OperatorSpec
from ipsolve.priors.base import Prior
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry, did_you_mean
from ipsolve.requests.validation import build


@dataclass(frozen=True)
class Requirements:
    """What a method needs. ``latent``: True needs a latent prior, False a pixel prior, None takes both."""

    linear: bool = False
    spectral: bool = False
    latent: bool | None = None
    noiseless: bool = False


class Solver(ABC):
    """A published method. Its fields are its hyper-parameters, with the names, defaults and ranges of the paper.

    ``solve`` treats every image of a batch on its own: norms, step sizes and stops are per image, and random
    numbers come from the image's own stream. It runs with autograd off, except where it takes a gradient.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str]
    requires: ClassVar[Requirements] = Requirements()
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # named settings: a paper's, its code's

    @abstractmethod
    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        """Return the reconstructions x_hat, (B, *image_shape) in [-1, 1] up to overshoot.

        Args:
            measurement: y, (B, *measurement_shape), and its noise level.
            operator: the drawn forward operator of this batch.
            prior: the diffusion prior.
            rng: B streams on the device of y.
        """

    def cost(self) -> str:
        """Return the number of network calls per image, in words, for ``--list``."""
        return "no network calls"

    def check(self, spec: OperatorSpec, latent: bool, noise_std: float) -> None:
        """Raise RequestError, in one line, if this method cannot do this task with this kind of prior."""
        needs = self.requires
        reasons = {
            f"needs a linear operator, {spec.name} is not": needs.linear and not spec.linear,
            f"needs an operator with a known SVD, {spec.name} has none": needs.spectral and not spec.spectral,
            "needs a latent prior": needs.latent is True and not latent,
            "needs a pixel prior": needs.latent is False and latent,
            f"is for noiseless measurements, noise_std is {noise_std}": needs.noiseless and noise_std > 0,
        }
        for reason, broken in reasons.items():
            if broken:
                raise RequestError(f"solver {self.name} {reason}")


SOLVERS: Registry[Solver] = Registry("solver")


def parse_solver(mapping: Mapping[str, Any], where: str = "solver") -> Solver:
    """Return the solver that a configuration describes: ``solver`` (its name), ``preset`` and its fields.

    A preset sets fields, which fields written beside it override; what is recorded later is the fields alone.

    Args:
        where: dotted path of ``mapping`` in the request; it starts the message of an error.

    Raises:
        RequestError: unknown solver, preset or field, or a value out of its range.
    """
    if "solver" not in mapping:
        raise RequestError(f"{where}.solver: is required; allowed: {', '.join(SOLVERS)}")
    try:
        cls = SOLVERS[str(mapping["solver"])]
    except RequestError as error:
        raise RequestError(f"{where}.solver: {error}") from None
    preset = mapping.get("preset")
    if preset is not None and preset not in cls.PRESETS:
        allowed = ", ".join(cls.PRESETS) or f"none, {cls.name} has no presets"
        raise RequestError(
            f"{where}.preset: unknown preset {preset!r}{did_you_mean(preset, cls.PRESETS)}; allowed: {allowed}"
        )
    fields = {key: value for key, value in mapping.items() if key not in ("solver", "preset")}
    return build(cls, {**(cls.PRESETS[preset] if preset is not None else {}), **fields}, where)

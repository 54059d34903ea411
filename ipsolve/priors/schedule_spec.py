"""How a configuration names a noise schedule: ``{schedule: cosine, num_timesteps: 1000}``."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ipsolve.priors import schedules
from ipsolve.priors.schedules import Schedule
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry

Beta = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=2)]


class ScheduleSpec(ABC):
    """A named schedule with its parameters. Subclasses are frozen dataclasses."""

    name: ClassVar[str]

    @abstractmethod
    def schedule(self) -> Schedule:
        """Return the schedule."""


SCHEDULES: Registry[ScheduleSpec] = Registry("schedule")


def load_schedule(mapping: object) -> Schedule:
    """Return the schedule that ``{schedule: NAME, ...}`` describes.

    Raises:
        RequestError: unknown schedule or key, or a value out of its range.
    """
    return _parse(mapping).schedule()


def _parse(mapping: object) -> ScheduleSpec:
    name = mapping.get("schedule") if isinstance(mapping, Mapping) else None
    where = "" if name is None else SCHEDULES[str(name)].name  # the field that holds the mapping goes before it
    return SCHEDULES.parse(mapping, where, "schedule")


def _resolve(mapping: object) -> dict[str, Any]:
    spec: Any = _parse(mapping)
    return {"schedule": spec.name, **dataclasses.asdict(spec)}


# a field of a configuration: what the user wrote, checked and with every default written out
ScheduleMapping = Annotated[dict[str, Any], BeforeValidator(_resolve), Field(validate_default=True)]


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Linear(ScheduleSpec):
    """:func:`ipsolve.priors.schedules.linear`: DDPM."""

    name: ClassVar[str] = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    num_timesteps: Count = 1000
    steps_offset: Annotated[int, Field(ge=0, le=1)] = 0
    end_clean: bool = True

    def schedule(self) -> Schedule:
        return schedules.linear(self.beta_start, self.beta_end, self.num_timesteps, self.steps_offset, self.end_clean)


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ScaledLinear(ScheduleSpec):
    """:func:`ipsolve.priors.schedules.scaled_linear`: latent diffusion, by default that of Stable Diffusion."""

    name: ClassVar[str] = "scaled_linear"
    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    num_timesteps: Count = 1000
    steps_offset: Annotated[int, Field(ge=0, le=1)] = 1
    end_clean: bool = False

    def schedule(self) -> Schedule:
        return schedules.scaled_linear(
            self.beta_start, self.beta_end, self.num_timesteps, self.steps_offset, self.end_clean
        )


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Cosine(ScheduleSpec):
    """:func:`ipsolve.priors.schedules.cosine`."""

    name: ClassVar[str] = "cosine"
    num_timesteps: Count = 1000
    steps_offset: Annotated[int, Field(ge=0, le=1)] = 0
    end_clean: bool = True

    def schedule(self) -> Schedule:
        return schedules.cosine(self.num_timesteps, self.steps_offset, self.end_clean)


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class EdmSpec(ScheduleSpec):
    """:class:`ipsolve.priors.schedules.Edm`: variance exploding."""

    name: ClassVar[str] = "edm"
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    rho: Annotated[float, Field(gt=0)] = 7.0

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise RequestError(f"sigma_min must be below sigma_max (got {self.sigma_min} and {self.sigma_max})")

    def schedule(self) -> Schedule:
        return schedules.Edm(self.sigma_min, self.sigma_max, self.rho)


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FlowMatchingSpec(ScheduleSpec):
    """:class:`ipsolve.priors.schedules.FlowMatching`."""

    name: ClassVar[str] = "flow_matching"
    shift: Annotated[float, Field(gt=0)] = 1.0
    start: Annotated[float, Field(gt=0, le=1)] = 1.0

    def schedule(self) -> Schedule:
        return schedules.FlowMatching(self.shift, self.start)


@SCHEDULES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MCGDiffSpec(ScheduleSpec):
    """:func:`ipsolve.priors.schedules.mcgdiff`: that of the 25-component experiment."""

    name: ClassVar[str] = "mcgdiff"
    beta_start: Beta = 0.02
    beta_end: Beta = 1e-4
    num_timesteps: Count = 1000

    def schedule(self) -> Schedule:
        return schedules.mcgdiff(self.beta_start, self.beta_end, self.num_timesteps)

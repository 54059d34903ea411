"""The kinds of a search space's entries.

    {float: [1, 5]}        {log: [0.1, 10]}        uniform, and uniform in the logarithm
    {int: [2, 20]}         {log_int: [10, 500]}    whole numbers, ends included
    {choice: [a, b]}                               words, numbers, true, false, null
    {ordered: [0, 1]}                              two numbers in increasing order

Each is drawn through parameters of fixed ranges (Optuna's), ``encode`` goes from a value of the field to them, and
``decode`` back. An ordered pair is drawn as b1 = low + (high - low) u, b2 = b1 + v (high - b1): never by rejection, so
that every draw is valid and the ranges that a sampler learns on do not move.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import BaseTrial

from ipsolve.requests.errors import RequestError, did_you_mean

Parameters = dict[str, Any]  # what Optuna sees, by name


@dataclass(frozen=True)
class Dimension(ABC):
    """One field of the solver. ``when``: the values of other fields for which it is searched at all."""

    field: str
    when: Mapping[str, tuple[Any, ...]]

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Parameters:
        """Draw."""

    @abstractmethod
    def decode(self, parameters: Mapping[str, Any]) -> Any:
        """Return the value of the field."""

    @abstractmethod
    def encode(self, value: Any) -> Parameters:
        """Return the parameters of the value nearest to ``value``; of the middle where it is no number."""

    @abstractmethod
    def corners(self) -> list[Any]:
        """Return values of the field that an invalid range cannot all pass."""

    @abstractmethod
    def grid(self, size: int) -> list[Parameters]:
        """Return the points of a grid, ``size`` along a range."""

    def active(self, values: Mapping[str, Any]) -> bool:
        """Return whether the values of the other fields are such that this one is searched."""
        return all(name in values and values[name] in allowed for name, allowed in self.when.items())


@dataclass(frozen=True)
class Interval(Dimension):
    """Numbers between two ends."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: BaseTrial) -> Parameters:
        draw: Any = trial.suggest_int if self.whole else trial.suggest_float
        return {self.field: draw(self.field, self.low, self.high, log=self.log)}

    def decode(self, parameters: Mapping[str, Any]) -> Any:
        return parameters[self.field]

    def encode(self, value: Any) -> Parameters:
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else self._at(0.5)
        number = min(max(number, self.low), self.high)
        return {self.field: round(number) if self.whole else float(number)}

    def corners(self) -> list[Any]:
        # the point inside is no whole number, which a field of whole numbers would let pass at the ends
        return [self.low, self.high] if self.whole else [self.low, self.high, self._at(0.381966)]

    def grid(self, size: int) -> list[Parameters]:
        numbers = [self._at(share) for share in np.linspace(0, 1, size)]
        return [{self.field: number} for number in sorted({round(n) for n in numbers} if self.whole else set(numbers))]

    def _at(self, share: float) -> float:
        if share in (0, 1):
            return self.high if share else self.low
        return float(
            self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        )


@dataclass(frozen=True)
class Choice(Dimension):
    """One of a list."""

    options: tuple[Any, ...]

    def suggest(self, trial: BaseTrial) -> Parameters:
        return {self.field: trial.suggest_categorical(self.field, self.options)}

    def decode(self, parameters: Mapping[str, Any]) -> Any:
        return parameters[self.field]

    def encode(self, value: Any) -> Parameters:
        return {self.field: value if value in self.options else self.options[0]}

    def corners(self) -> list[Any]:
        return list(self.options)

    def grid(self, size: int) -> list[Parameters]:
        return [{self.field: option} for option in self.options]


@dataclass(frozen=True)
class Ordered(Dimension):
    """Two increasing numbers."""

    low: float
    high: float

    @property
    def names(self) -> tuple[str, str]:
        return f"{self.field}.u", f"{self.field}.v"

    def suggest(self, trial: BaseTrial) -> Parameters:
        return {name: trial.suggest_float(name, 0.0, 1.0) for name in self.names}

    def decode(self, parameters: Mapping[str, Any]) -> list[float]:
        u, v = (parameters[name] for name in self.names)
        first = self.low + (self.high - self.low) * u
        return [first, min(first + v * (self.high - first), self.high)]

    def encode(self, value: Any) -> Parameters:
        first, second = value if isinstance(value, (tuple, list)) and len(value) == 2 else self.decode(self._pair(0.5))
        first, second = (min(max(number, self.low), self.high) for number in (first, second))
        v = (second - first) / (self.high - first) if first < self.high else 0.0
        return dict(zip(self.names, ((first - self.low) / (self.high - self.low), v), strict=True))

    def corners(self) -> list[Any]:
        return [[self.low, self.low], [self.low, self.high], [self.high, self.high], self.decode(self._pair(0.381966))]

    def grid(self, size: int) -> list[Parameters]:
        shares = [float(share) for share in np.linspace(0, 1, size)]
        return [dict(zip(self.names, (u, v), strict=True)) for u in shares for v in shares]

    def _pair(self, share: float) -> Parameters:
        return dict.fromkeys(self.names, share)


KINDS = ("float", "log", "int", "log_int", "choice", "ordered")


def parse_dimension(field: str, entry: object, where: str) -> Dimension:
    """Return the dimension that an entry of a space describes; RequestError, one line, where it is wrong."""
    if not isinstance(entry, Mapping):
        raise RequestError(where, f"must be a mapping such as {{log: [0.1, 10]}} (got {entry!r})")
    kinds = [str(key) for key in entry if key != "when"]
    for kind in kinds:
        if kind not in KINDS:
            allowed = ", ".join((*KINDS, "when"))
            raise RequestError(f"{where}.{kind}", f"unknown key{did_you_mean(kind, KINDS)}; allowed: {allowed}")
    if len(kinds) != 1:
        raise RequestError(where, f"needs exactly one of {', '.join(KINDS)} (got {', '.join(kinds) or 'none'})")
    kind, when = kinds[0], _when(entry.get("when"), f"{where}.when")
    spot, values = f"{where}.{kind}", entry[kind]
    if kind == "choice":
        return Choice(field, when, _options(values, spot))
    low, high = _ends(values, spot)
    if kind == "ordered":
        return Ordered(field, when, float(low), float(high))
    log, whole = kind.startswith("log"), kind.endswith("int")
    if whole and not (isinstance(low, int) and isinstance(high, int)):
        raise RequestError(spot, f"must be two whole numbers (got {values!r})")
    if log and low <= 0:
        raise RequestError(spot, f"a logarithm needs numbers above 0 (got {values!r})")
    return (
        Interval(field, when, low, high, log, whole) if whole else Interval(field, when, float(low), float(high), log)
    )


def _ends(values: object, spot: str) -> tuple[float, float]:
    numbers = values if isinstance(values, (list, tuple)) else ()
    fits = len(numbers) == 2 and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    if not fits or not numbers[0] < numbers[1] or not np.isfinite(numbers).all():
        raise RequestError(spot, f"must be [low, high] with low < high (got {values!r})")
    return numbers[0], numbers[1]


def _options(values: object, spot: str) -> tuple[Any, ...]:
    fits = isinstance(values, (list, tuple)) and len(values) > 0
    if not fits or not all(isinstance(value, (str, int, float, bool, type(None))) for value in values):  # type: ignore[attr-defined]
        raise RequestError(spot, f"must be a list of words, numbers, true, false or null (got {values!r})")
    return tuple(values)  # type: ignore[arg-type]


def _when(values: object, spot: str) -> dict[str, tuple[Any, ...]]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise RequestError(spot, f"must be a mapping of fields to values (got {values!r})")
    return {str(name): tuple(v) if isinstance(v, (list, tuple)) else (v,) for name, v in values.items()}

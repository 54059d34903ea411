"""A search space over the fields of a solver, checked against the solver's own types and ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import field_names, unknown_key
from ipsolve.solvers import Solver, parse_solver
from tuning.dimensions import Choice, Dimension, Parameters, parse_dimension


@dataclass(frozen=True)
class Space:
    """Dimensions, each after those that its ``when`` names."""

    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draw a point; return the values of the fields that are active in it."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.active(values):
                values[dimension.field] = dimension.decode(dimension.suggest(trial))
        return values

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the fields that the parameters of a trial stand for."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.active(values):
                values[dimension.field] = dimension.decode(parameters)
        return values

    def nearest(self, solver: Solver) -> Parameters:
        """Return the parameters of the point nearest to the settings of a solver."""
        parameters: Parameters = {}
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.active(values):
                parameters |= dimension.encode(getattr(solver, dimension.field))
                values[dimension.field] = dimension.decode(parameters)
        return parameters

    def around(self, solver: Solver) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield points that a fault in one field cannot all pass: a field, and the values of the active fields.

        Every field takes each of its options or corners, the others are nearest to the settings of ``solver`` except
        for what the field's conditions ask for.
        """
        for dimension in self.dimensions:
            for corner in dimension.corners():
                chosen = self._conditions(dimension, solver) | {dimension.field: corner}
                values: dict[str, Any] = {}
                for each in self.dimensions:
                    if each.field in chosen:
                        values[each.field] = chosen[each.field]
                    elif each.active(values):
                        values[each.field] = each.decode(each.encode(getattr(solver, each.field)))
                yield dimension.field, values

    def _conditions(self, dimension: Dimension, solver: Solver) -> dict[str, Any]:
        """Return the values of other fields with which a field is active, those of ``solver`` where they do."""
        chosen: dict[str, Any] = {}
        for name, allowed in dimension.when.items():
            own = getattr(solver, name)
            condition = next(each for each in self.dimensions if each.field == name)
            chosen |= self._conditions(condition, solver) | {name: own if own in allowed else allowed[0]}
        return chosen

    def grid(self, size: int) -> list[Parameters]:
        """Return the parameters of every point of a grid, without the fields that are inactive there."""
        points: list[Parameters] = [{}]
        for dimension in self.dimensions:
            own = dimension.grid(size)
            points = [p | q for p in points for q in (own if dimension.active(self._known(p)) else [{}])]
        return points

    def _known(self, parameters: Parameters) -> dict[str, Any]:
        # only choices can be conditions, and their parameter is their value
        return {d.field: parameters[d.field] for d in self.dimensions if d.field in parameters}


def parse_space(mapping: Mapping[str, Any], fixed: Mapping[str, Any], where: str = "space") -> Space:
    """Return the space that a configuration describes.

    Args:
        mapping: by field of the solver.
        fixed: the solver's name and what is not searched.

    Raises:
        RequestError: a field that the solver does not have or that is fixed, a range beyond the solver's own, or a
            condition that nothing can meet.
    """
    solver = type(parse_solver(fixed))
    names = field_names(solver)
    for field in mapping:
        if field not in names:
            raise unknown_key(where, str(field), names)
        if field in fixed:
            raise RequestError(f"{where}.{field}", "is fixed under solver as well; remove one of the two")
    dimensions = {field: parse_dimension(field, entry, f"{where}.{field}") for field, entry in mapping.items()}
    for dimension in dimensions.values():
        _check_when(dimension, dimensions, f"{where}.{dimension.field}.when")
        for value in dimension.corners():
            conditions = {name: allowed[0] for name, allowed in dimension.when.items()}
            parse_solver({**fixed, **conditions, dimension.field: value}, where)
    return Space(_in_order(dimensions, where))


def _check_when(dimension: Dimension, dimensions: Mapping[str, Dimension], where: str) -> None:
    for name, allowed in dimension.when.items():
        condition = dimensions.get(name)
        if not isinstance(condition, Choice):
            choices = ", ".join(n for n, d in dimensions.items() if isinstance(d, Choice)) or "none in this space"
            raise RequestError(f"{where}.{name}", f"is not a choice of this space; allowed: {choices}")
        for value in allowed:
            if value not in condition.options:
                options = ", ".join(map(str, condition.options))
                raise RequestError(f"{where}.{name}", f"never is {value!r}; allowed: {options}")


def _in_order(dimensions: Mapping[str, Dimension], where: str) -> tuple[Dimension, ...]:
    ordered: dict[str, Dimension] = {}
    while len(ordered) < len(dimensions):
        ready = [d for n, d in dimensions.items() if n not in ordered and set(d.when) <= set(ordered)]
        if not ready:
            raise RequestError(where, f"fields wait for each other in a circle ({', '.join(dimensions)})")
        ordered |= {d.field: d for d in ready}
    return tuple(ordered.values())

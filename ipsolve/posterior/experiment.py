"""A posterior configuration whose every name has become an object, checked before any compute.

A cell is one set of problems by one solver with one seed; its rows are problems. Beside the solvers of the
configuration every set has the cell ``exact``: a second exact sample set in the place of a solver's, the floor that
no method with as many samples can be expected to get below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic.dataclasses import dataclass as pydantic_dataclass

from ipsolve.posterior.config import PosteriorConfig
from ipsolve.posterior.problems import ProblemSpec, parse_problems
from ipsolve.priors.schedule_spec import load_schedule
from ipsolve.requests.errors import RequestError, did_you_mean
from ipsolve.requests.validation import build
from ipsolve.runs.cells import Cell, at, check_run, describe, hash_of
from ipsolve.solvers import Solver, parse_solver

EXACT = "exact"
Keep = Literal["one", "all"]


@pydantic_dataclass(frozen=True, config={"extra": "forbid"})
class Sampling:
    """The keys of ``solvers.NAME`` that are not the solver's own."""

    keep: Keep = "one"
    problems: list[str] | None = None


@dataclass(frozen=True)
class Entry:
    """A solver and how samples are made of it."""

    solver: Solver
    sampling: Sampling

    @property
    def states_per_run(self) -> int:
        """States that one run carries through the levels."""
        return self.solver.num_samples

    def num_runs(self, samples: int) -> int:
        """Return how many runs make ``samples`` samples."""
        return -(-samples // self.states_per_run) if self.sampling.keep == "all" else samples

    def describe(self) -> dict[str, Any]:
        """Return the entry as a configuration writes it."""
        return describe(self.solver, "solver") | dataclasses.asdict(self.sampling)


@dataclass(frozen=True)
class PosteriorExperiment:
    """A checked posterior run. Make it with :meth:`of`."""

    config: PosteriorConfig
    problems: Mapping[str, ProblemSpec]
    entries: Mapping[str, Entry]

    batch_size = 1  # problems: the runs of one fill a batch

    @classmethod
    def of(cls, config: PosteriorConfig) -> PosteriorExperiment:
        """Return the experiment that ``config`` describes.

        Raises:
            RequestError: a name, key or value in it is wrong, or a solver cannot do a problem it is asked for.
        """
        problems = {name: parse_problems(mapping, f"problems.{name}") for name, mapping in config.problems.items()}
        entries = {name: _entry(mapping, f"solvers.{name}") for name, mapping in config.solvers.items()}
        experiment = cls(config, problems, entries)
        experiment._check()
        return experiment

    def _check(self) -> None:
        check_run(self.config.baseline, self.entries, self.config.tracking)
        if EXACT in self.entries:
            raise RequestError(f"solvers.{EXACT}", "this name is taken by the exact samples of the floor")
        for name, entry in self.entries.items():
            for task in entry.sampling.problems or ():
                if task not in self.problems:
                    hint, allowed = did_you_mean(task, self.problems), ", ".join(self.problems)
                    raise RequestError(f"solvers.{name}.problems", f"no problems {task!r}{hint}; allowed: {allowed}")
        for task, name in self._pairs:
            if name != EXACT:
                solver, spec = self.entries[name].solver, self.problems[task]
                where = f"solvers.{name} on problems.{task}"
                at(where, solver.check, spec.task, spec.prior_traits)
                at(where, solver.check_schedule, load_schedule(spec.schedule))

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        chosen = {name: entry.sampling.problems or list(self.problems) for name, entry in self.entries.items()}
        return [(task, name) for task in self.problems for name in [EXACT, *self.entries]
                if name == EXACT or task in chosen[name]]  # fmt: skip

    @cached_property
    def all_cells(self) -> list[Cell]:
        """All cells, the floor of a set of problems before its solvers."""
        config = self.config
        common = {"samples": config.samples, "slices": config.slices, "problem_seed": config.problem_seed}
        cells = []
        for task, name in self._pairs:
            how = self.entries[name].describe() if name != EXACT else {}
            how.pop("problems", None)
            problems = describe(self.problems[task], "generator")
            del problems["num_problems"]
            identity = {**common, "names": [task, name], "problems": problems, "solver": how}
            cells += [Cell(task, name, seed, hash_of({**identity, "seed": seed})) for seed in config.seeds]
        return cells

    @cached_property
    def _ids(self) -> dict[str, list[str]]:
        return {task: [f"{task}/{i:03}" for i in range(spec.num_problems)] for task, spec in self.problems.items()}

    def ids_of(self, cell: Cell) -> list[str]:
        """Return the ids of the problems of one cell: the name of the set, and the problem's index."""
        return self._ids[cell.task]

    @property
    def image_ids(self) -> list[str]:
        """The ids of the problems of all sets."""
        return [name for names in self._ids.values() for name in names]

    def origin(self) -> dict[str, Any]:
        """Return what a run records of where its numbers come from."""
        return {"problems": {name: describe(spec, "generator") for name, spec in self.problems.items()}}

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default written out; running it gives the same numbers."""
        return dataclasses.asdict(self.config) | {
            "problems": self.origin()["problems"],
            "solvers": {name: entry.describe() for name, entry in self.entries.items()},
        }


def _entry(mapping: Mapping[str, Any], where: str) -> Entry:
    own = {key: mapping[key] for key in ("keep", "problems") if key in mapping}
    sampling = build(Sampling, own, where)
    solver = parse_solver({key: value for key, value in mapping.items() if key not in own}, where)
    if sampling.keep == "all" and solver.num_samples == 1:
        reason = f"all is for solvers that return several samples, {solver.name} returns one; allowed: one"
        raise RequestError(f"{where}.keep", reason)
    return Entry(solver, sampling)

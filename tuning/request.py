"""A sweep whose every name has become an object: all that can be wrong with a request is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ipsolve.datasets import ImageError
from ipsolve.metrics import Entry
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.cells import at, describe
from ipsolve.runs.config import Compute, Config, read_mapping
from ipsolve.runs.experiment import Experiment
from ipsolve.solvers import Solver, parse_solver
from tuning.config import SweepConfig
from tuning.leakage import shared_image
from tuning.objective import Objective, parse_objectives
from tuning.problem import TRIAL, Problem
from tuning.space import Space, parse_space

TUNED, PUBLISHED = "tuned", "published"
BEST = "-best"  # what the name of the evaluation adds to that of the sweep
MOST_LETTERS = 128 - len(BEST)  # of a name: a run's has 128
# what a sweep calls the keys of its evaluations
OWN_KEYS = {f"solvers.{TRIAL}": "solver", "metrics": "objective"}
EVALUATE_KEYS = {
    "data": "evaluate.data",
    "metrics": "evaluate.metrics",
    "headline": "evaluate.headline",
    f"solvers.{PUBLISHED}": "evaluate.baseline",
    f"solvers.{TUNED}": "solver",
}


@dataclass(frozen=True)
class Sweep:
    """A checked sweep. Make it with :meth:`of`.

    Args:
        experiment: the tasks on the images of the sweep, with the solver at the settings of the reference.
        reference: the fields of trial 0, the solver's own settings (moved into the space where they lie outside).
    """

    config: SweepConfig
    experiment: Experiment
    space: Space
    objectives: tuple[Objective, ...]
    reference: dict[str, Any]

    @classmethod
    def of(cls, config: SweepConfig) -> Sweep:
        """Return the sweep that ``config`` describes.

        Raises:
            RequestError: a name, value, path or range in it is wrong, or its parts do not fit together.
        """
        if len(config.name) > MOST_LETTERS:
            raise RequestError(
                "name",
                f"must have at most {MOST_LETTERS} characters, because best.yaml adds {BEST} (got {len(config.name)})",
            )
        own = parse_solver(config.solver)
        space = parse_space(config.space, config.solver)
        objectives = parse_objectives(config.objective)
        reference = space.values(space.nearest(own))
        metrics = list(dict.fromkeys(name for objective in objectives for name in objective.metrics))
        solvers = {TRIAL: {**config.solver, **reference}}
        with renamed(OWN_KEYS):
            experiment = Experiment.of(_evaluation(config, config.data, solvers, metrics))
        sweep = cls(config, experiment, space, objectives, reference)
        sweep._check()
        return sweep

    def _check(self) -> None:
        search = self.config.search
        for name, reason in self.experiment.missing_metrics.items():
            raise RequestError("objective", f"{name} cannot be computed here: {reason}")
        exact = [name for name, task in self.experiment.tasks.items() if task.noise.std == 0]
        if exact and any("consistency" in objective.weights for objective in self.objectives):
            raise RequestError("objective", f"consistency is in units of the noise, and tasks.{exact[0]} has none")
        if any(a >= b for a, b in zip(search.rungs, search.rungs[1:], strict=False)):
            raise RequestError("search.rungs", f"must be increasing (got {search.rungs})")
        n = len(self.experiment.image_ids)
        if search.rungs[-1] > n:
            raise RequestError("search.rungs", f"the last is {search.rungs[-1]}, and data has {n} images")
        if len(self.objectives) > 1 and search.scheduler not in (None, "none"):
            raise RequestError("search.scheduler", "two objectives have no single order to stop by; allowed: none")
        if "://" in self.config.output:
            raise RequestError("output", "a sweep keeps its study in SQLite, which needs a local folder")
        self._check_space()
        self._check_split()

    def _check_space(self) -> None:
        """Raise RequestError where the solver cannot do a task at some point of the space, the reference or not."""
        traits, schedule = self.experiment.prior_summary.traits, self.experiment.prior_summary.schedule
        for field, values in self.space.around(self.experiment.solvers[TRIAL]):
            solver = parse_solver({**self.config.solver, **values}, "space")
            if schedule is not None:
                at(f"space.{field}: {values[field]}", solver.check_schedule, schedule)
            for name, task in self.experiment.tasks.items():
                at(f"space.{field}: {values[field]} on tasks.{name}", solver.check, task, traits)

    def _check_split(self) -> None:
        source = self.config.data.get("source")
        if str(source).split(":")[-1] == "test":
            raise RequestError(
                "data.source", f"{source} is a test split; hyper-parameters are chosen on another one, val"
            )
        with renamed(EVALUATE_KEYS):
            evaluation = Experiment.of(self.evaluation({TUNED: self.fields(self.reference)}))
        shared = shared_image(self.experiment, self.order, evaluation)
        if shared is not None:
            own, other = shared
            as_other = "" if own == other else f" as {other}"
            raise RequestError(
                "data",
                f"image {own} is one that evaluate.data reports on{as_other}; allowed: two sets without an image "
                "in common",
            )

    @property
    def scheduler(self) -> str:
        """What stops trials early: ``asha``, ``median`` or ``none``."""
        return self.config.search.scheduler or ("asha" if len(self.objectives) == 1 else "none")

    def fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a solver as a configuration writes it, at a point of the space."""
        return describe(parse_solver({**self.config.solver, **values}), "solver")

    def evaluation(self, tuned: Mapping[str, Mapping[str, Any]]) -> Config:
        """Return the configuration that compares tuned solvers with the published one on the evaluation split."""
        baseline = self.config.evaluate.baseline or published(type(parse_solver(self.config.solver)))
        parse_solver(baseline, "evaluate.baseline")
        solvers = {**tuned, PUBLISHED: baseline}
        evaluate = self.config.evaluate
        name = f"{self.config.name}{BEST}"
        return dataclasses.replace(
            _evaluation(self.config, evaluate.data, solvers, evaluate.metrics),
            name=name,
            baseline=PUBLISHED,
            headline=evaluate.headline,
        )

    @cached_property
    def order(self) -> list[int]:
        """The images of a trial, by their index, in the seeded order in which every trial sees them."""
        ids = self.experiment.image_ids
        order = np.random.default_rng(self.config.seed).permutation(len(ids))
        return [int(index) for index in order[: self.config.search.rungs[-1]]]

    def problem(self) -> Problem:
        """Return what every trial is measured on, the images read.

        Raises:
            RequestError: an image cannot be read.
        """
        images = self.experiment.source.load_batch(self.order, self.experiment.image_size)
        ids = [self.experiment.image_ids[index] for index in self.order]
        for name, image in zip(ids, images, strict=True):
            if isinstance(image, ImageError):
                raise RequestError("data", f"{name} cannot be read: {image}")
        captions, negative_captions = (
            {name: text for name, text in zip(ids, texts, strict=True) if text is not None}
            for texts in (self.experiment.source.captions(self.order, negative) for negative in (False, True))
        )
        return Problem(
            experiment=self.experiment,
            fixed=self.config.solver,
            reference=self.reference,
            objectives=self.objectives,
            rungs=tuple(self.config.search.rungs),
            image_ids=tuple(ids),
            images=torch.from_numpy(np.stack([np.asarray(image) for image in images])),
            captions=captions,
            negative_captions=negative_captions,
        )

    def identity(self) -> dict[str, Any]:
        """Return what two stretches of work on the same sweep must have in common."""
        config = self.config
        common = ("data", "tasks", "solver", "space", "objective", "seed")
        return {name: getattr(config, name) for name in common} | {
            "prior": self.experiment.prior.fingerprint(),
            "compute.precision": config.compute.precision,
            "search.rungs": config.search.rungs,
            "search.scheduler": [self.scheduler, config.search.reduction_factor],
        }


@contextmanager
def renamed(keys: Mapping[str, str]) -> Iterator[None]:
    """Let a RequestError name the user's own key: one of ``keys`` at the start of its key is what that stands for."""
    try:
        yield
    except RequestError as error:
        for key, own in keys.items():
            if error.key == key or error.key.startswith((f"{key}.", f"{key} ")):
                raise RequestError(own + error.key[len(key) :], error.reason) from None
        raise


def published(solver: type[Solver]) -> dict[str, Any]:
    """Return a solver at its published settings: the preset of that name, or its defaults."""
    preset = {"preset": PUBLISHED} if PUBLISHED in solver.PRESETS else {}
    return {"solver": solver.name, **preset}


def load_sweep(path: str | Path, overrides: list[str]) -> SweepConfig:
    """Return the configuration in a YAML file with ``key=value`` overrides applied; RequestError where it is wrong."""
    return build(SweepConfig, read_mapping(path, overrides), "")


def _evaluation(
    config: SweepConfig,
    data: dict[str, Any],
    solvers: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[Entry],
) -> Config:
    compute = Compute(batch_size=config.compute.batch_size, precision=config.compute.precision)
    return Config(
        name=config.name,
        seed=config.seed,
        data=data,
        prior=config.prior,
        tasks=config.tasks,
        solvers={key: dict(solver) for key, solver in solvers.items()},
        metrics=list(metrics),
        weights=config.weights,
        compute=compute,
        output=config.output,
        tracking=dataclasses.replace(config.tracking),
    )

"""A configuration whose every name has become an object: all that can be wrong with a request is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ipsolve.datasets import Source, open_source
from ipsolve.metrics import Asked, headline_of
from ipsolve.operators.tasks import Task, describe_task, parse_task
from ipsolve.priors import PriorSpec, PriorSummary, prior_spec
from ipsolve.requests.errors import RequestError
from ipsolve.runs.cells import Cell, at, check_run, describe, hash_of
from ipsolve.runs.config import EXTENT, Config, load_published
from ipsolve.signal import Signal
from ipsolve.solvers import Solver, parse_solver


@dataclass(frozen=True)
class Experiment:
    """A checked evaluation. Make it with :meth:`of`."""

    config: Config
    source: Source
    prior: PriorSpec
    prior_summary: PriorSummary
    tasks: Mapping[str, Task]
    solvers: Mapping[str, Solver]

    @classmethod
    def of(cls, config: Config) -> Experiment:
        """Return the experiment that ``config`` describes.

        Raises:
            RequestError: a name, value, path, shape or weight file in it is wrong, or its parts do not fit together.
        """
        prior = prior_spec(config.prior)
        tasks = {name: parse_task(mapping, f"tasks.{name}") for name, mapping in config.tasks.items()}
        solvers = {name: parse_solver(mapping, f"solvers.{name}") for name, mapping in config.solvers.items()}
        summary = prior.summary()
        source = open_source(config.data, summary.image_shape[-1], summary.signal)
        experiment = cls(config, source, prior, summary, tasks, solvers)
        experiment._check()
        return experiment

    def _check(self) -> None:
        check_run(self.config.baseline, self.solvers, self.config.tracking)
        if self.config.published is not None:
            at("published", load_published, self.config.published)
        asked = self.asked
        headline_of(self.config.metrics, self.config.headline)
        if self.signal.kind == "vector":
            raise RequestError("prior.image_shape", "vectors are for python -m ray_jobs.posterior")
        height, width = self.prior_summary.image_shape[-2:]
        if self.signal.kind == "rgb" and height != width:
            raise RequestError("prior", f"images must be square, this prior's are {height} x {width}")
        self._check_captions()
        if (schedule := self.prior_summary.schedule) is not None:
            for solver in self.solvers:
                at(f"solvers.{solver}", self.solvers[solver].check_schedule, schedule)
        for name, task in self.tasks.items():
            at(f"tasks.{name}", task.check, self.prior_summary.image_shape)
            for solver in self.solvers:
                at(f"solvers.{solver} on tasks.{name}", self.solvers[solver].check, task, self.prior_summary.traits)
        ids = self.image_ids
        if not ids:
            raise RequestError("data.limit", "must be 1 or more, or null for all images")
        if len(set(ids)) < len(ids):
            raise RequestError("data", "two images have the same image_id")
        for metric in asked.here.images.values():
            at("metrics", metric.check, self.prior_summary.image_shape)
        for name, distance in asked.here.sets.items():
            at(f"metrics: {name}", asked.here.features[distance.features].check, self.prior_summary.image_shape)
        self.prior.check()

    def _check_captions(self) -> None:
        """Raise RequestError where the prior cannot be told the words that are asked for, or would not listen."""
        asked = {key for key in ("captions", "negative_captions") if self.config.data.get(key) is not None}
        for key, trait, others in (
            ("captions", "text", "stable_diffusion or flux"),
            ("negative_captions", "negative_text", "stable_diffusion"),
        ):
            if key in asked and trait not in self.prior_summary.traits:
                kind = trait.replace("_", " ")
                raise RequestError(
                    f"data.{key}", f"prior {self.prior.name} cannot be told a {kind}; allowed: null, or prior {others}"
                )
        if "negative_captions" in asked and getattr(self.prior, "guidance_scale", None) == 1:
            raise RequestError(
                "data.negative_captions",
                "nothing is led away from where prior.guidance_scale is 1; allowed: null, or another guidance_scale",
            )

    @property
    def signal(self) -> Signal:
        """What the images are."""
        return self.prior_summary.signal

    @property
    def image_size(self) -> int:
        return self.prior_summary.image_shape[-1]

    @cached_property
    def image_ids(self) -> list[str]:
        """The ids of all images asked for, by their index in the source: ``data.limit`` from ``data.offset`` on."""
        limit = self.config.data.get("limit")
        return list(self.source.image_ids(range(len(self.source) if limit is None else min(limit, len(self.source)))))

    @cached_property
    def asked(self) -> Asked:
        """The metrics that are asked for; ``asked.here`` are those that can be computed."""
        return Asked.of(self.config.metrics, self.config.weights)

    @property
    def missing_metrics(self) -> dict[str, str]:
        """The metrics asked for that cannot be computed here, and the way to get them."""
        return self.asked.missing

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells: every task by every solver by every seed."""
        common: dict[str, Any] = {"prior": self.prior.fingerprint(), "data": self._images}
        common |= {"precision": self.config.compute.precision, **self.asked.identity}
        if self.config.samples > 1:  # not where there is one: earlier runs know no samples, and are gone on with
            common |= {"samples": self.config.samples}
        return [
            Cell(
                task,
                name,
                seed,
                hash_of({**common, "names": [task, name], "task": describe_task(self.tasks[task]),
                       "solver": describe(self.solvers[name], "solver"), "seed": seed}),
            )
            for task in self.tasks
            for name in self.solvers
            for seed in self.config.seeds
        ]  # fmt: skip

    @cached_property
    def reference_cell(self) -> Cell:
        """The pseudo-cell of the ground truth: it is read and described by features like any reconstruction."""
        identity = {"data": self._images, "size": self.image_size, "features": sorted(self.asked.here.features)}
        return Cell("", "", 0, hash_of(identity | self.asked.here.identity_of_features))

    @property
    def all_cells(self) -> list[Cell]:
        """The cells of the solvers, and before them that of the ground truth."""
        return [self.reference_cell, *self.cells]

    def ids_of(self, cell: Cell) -> list[str]:
        """Return the ids of the images of one cell: all cells have the same."""
        return self.image_ids

    @property
    def batch_size(self) -> int:
        """Images read and solved together: so many that their samples fill a batch."""
        return max(self.config.compute.batch_size // self.config.samples, 1)

    def origin(self) -> dict[str, Any]:
        """Return what a run records of where its numbers come from."""
        return {
            "data": self._described,
            "prior_fingerprint": self.prior.fingerprint(),
            "absent_metrics": self.missing_metrics,
            "networks": self.asked.identity,
        }

    @cached_property
    def _described(self) -> dict[str, Any]:
        return dict(self.source.describe())  # kept: it looks at every file of the source

    @property
    def _images(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.data.items() if key not in EXTENT}

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default written out; running it gives the same numbers."""
        return dataclasses.asdict(self.config) | {
            "prior": describe(self.prior, "prior"),
            "tasks": {name: describe_task(task) for name, task in self.tasks.items()},
            "solvers": {name: describe(solver, "solver") for name, solver in self.solvers.items()},
            "headline": headline_of(self.config.metrics, self.config.headline),
        }


def image_dtype(precision: str) -> torch.dtype:
    """Return the dtype of images in an evaluation: float64 only where everything is."""
    return torch.float64 if precision == "float64" else torch.float32

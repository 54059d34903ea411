"""A configuration whose every name has become an object: all that can be wrong with a request is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ipsolve.datasets import Source, open_source
from ipsolve.metrics import FEATURES, METRICS, SET_METRICS, Weights
from ipsolve.metrics.features import INCEPTION
from ipsolve.operators.base import OperatorSpec
from ipsolve.operators.noise import Noise
from ipsolve.operators.tasks import describe_task, parse_task
from ipsolve.priors import PriorSpec, PriorSummary, prior_spec
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import did_you_mean
from ipsolve.runs.cells import Cell, at, check_run, describe, hash_of
from ipsolve.runs.config import EXTENT, Config, load_published
from ipsolve.solvers import Solver, parse_solver

# the key of ``weights`` that says which network a metric or a feature extractor is, and the network that goes without
# saying. Paths say nothing of a number: a file that has not the SHA-256 is not used.
NETWORKS = {"lpips": ("lpips_net", Weights().lpips_net), "inception": ("inception_sha256", INCEPTION.sha256)}


@dataclass(frozen=True)
class Experiment:
    """A checked evaluation. Make it with :meth:`of`."""

    config: Config
    source: Source
    prior: PriorSpec
    prior_summary: PriorSummary
    tasks: Mapping[str, tuple[OperatorSpec, Noise]]
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
        source = open_source(config.data, summary.image_shape[-1])
        experiment = cls(config, source, prior, summary, tasks, solvers)
        experiment._check()
        return experiment

    def _check(self) -> None:
        check_run(self.config.baseline, self.solvers, self.config.tracking)
        if self.config.published is not None:
            at("published", load_published, self.config.published)
        for name in self.config.metrics:
            if name not in METRICS and name not in SET_METRICS:
                allowed = [*METRICS, *SET_METRICS]
                raise RequestError(
                    f"metrics: unknown metric {name!r}{did_you_mean(name, allowed)}; allowed: {', '.join(allowed)}"
                )
        _, height, width = self.prior_summary.image_shape
        if height != width:
            raise RequestError(f"prior: images must be square, this prior's are {height} x {width}")
        for task, (spec, noise) in self.tasks.items():
            at(f"tasks.{task}", spec.check, self.prior_summary.image_shape)
            for name, solver in self.solvers.items():
                at(f"solvers.{name} on tasks.{task}", solver.check, spec, self.prior_summary.latent, noise.std)
        ids = self.image_ids
        if not ids:
            raise RequestError("data.limit: must be 1 or more, or null for all images")
        if len(set(ids)) < len(ids):
            raise RequestError("data: two images have the same image_id")
        blank = torch.zeros(1, *self.prior_summary.image_shape)
        for name in self.metrics:
            at(f"metrics: {name}", METRICS[name](self.config.weights), blank, blank)
        self.prior.load("cpu", self.config.compute.precision)  # a weight of the wrong shape shows only here

    @property
    def image_size(self) -> int:
        return self.prior_summary.image_shape[-1]

    @cached_property
    def image_ids(self) -> list[str]:
        """The ids of all images asked for, by their index in the source: ``data.limit`` from ``data.offset`` on."""
        limit = self.config.data.get("limit")
        return list(self.source.image_ids(range(len(self.source) if limit is None else min(limit, len(self.source)))))

    @cached_property
    def missing_metrics(self) -> dict[str, str]:
        """The metrics asked for that cannot be computed here, and the way to get them."""
        needs = {name: SET_METRICS[name].features for name in self.config.metrics if name in SET_METRICS}
        reasons = {name: FEATURES[feature](self.config.weights).unavailable() for name, feature in needs.items()}
        reasons |= {
            name: METRICS[name](self.config.weights).unavailable() for name in self.config.metrics if name in METRICS
        }
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @property
    def metrics(self) -> list[str]:
        """The metrics of images that are asked for and can be computed."""
        return [name for name in self.config.metrics if name in METRICS and name not in self.missing_metrics]

    @property
    def features(self) -> list[str]:
        """The feature extractors that the metrics of sets need and that can be computed."""
        sets = [name for name in self.config.metrics if name in SET_METRICS and name not in self.missing_metrics]
        return list(dict.fromkeys(SET_METRICS[name].features for name in sets))

    @cached_property
    def networks(self) -> dict[str, str]:
        """The choices under ``weights`` that a metric asked for depends on; those that go without saying are absent."""
        asked = self.config.metrics
        return self._networks_of([*asked, *(SET_METRICS[name].features for name in asked if name in SET_METRICS)])

    def _networks_of(self, names: Iterable[str]) -> dict[str, str]:
        keys = dict(NETWORKS[name] for name in names if name in NETWORKS)
        chosen = {key: str(getattr(self.config.weights, key) or usual).lower() for key, usual in keys.items()}
        return {key: value for key, value in chosen.items() if value != keys[key]}

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells: every task by every solver by every seed."""
        common = {"prior": self.prior.fingerprint(), "data": self._images, "precision": self.config.compute.precision}
        common |= self.networks
        return [
            Cell(
                task,
                name,
                seed,
                hash_of({**common, "names": [task, name], "task": describe_task(*self.tasks[task]),
                       "solver": describe(self.solvers[name], "solver"), "seed": seed}),
            )
            for task in self.tasks
            for name in self.solvers
            for seed in self.config.seeds
        ]  # fmt: skip

    @cached_property
    def reference_cell(self) -> Cell:
        """The pseudo-cell of the ground truth: it is read and described by features like any reconstruction."""
        identity = {"data": self._images, "size": self.image_size, "features": sorted(self.features)}
        return Cell("", "", 0, hash_of(identity | self._networks_of(self.features)))

    @property
    def all_cells(self) -> list[Cell]:
        """The cells of the solvers, and before them that of the ground truth."""
        return [self.reference_cell, *self.cells]

    def ids_of(self, cell: Cell) -> list[str]:
        """Return the ids of the images of one cell: all cells have the same."""
        return self.image_ids

    @property
    def batch_size(self) -> int:
        """Images solved together."""
        return self.config.compute.batch_size

    def origin(self) -> dict[str, Any]:
        """Return what a run records of where its numbers come from."""
        return {
            "data": self._described,
            "prior_fingerprint": self.prior.fingerprint(),
            "absent_metrics": self.missing_metrics,
            "networks": self.networks,
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
            "tasks": {name: describe_task(*task) for name, task in self.tasks.items()},
            "solvers": {name: describe(solver, "solver") for name, solver in self.solvers.items()},
        }


def image_dtype(precision: str) -> torch.dtype:
    """Return the dtype of images in an evaluation: float64 only where everything is."""
    return torch.float64 if precision == "float64" else torch.float32

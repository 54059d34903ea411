"""What MLflow is told of a run beside its numbers: parameters, extent, data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipsolve.runs.config import EXTENT
from ray_jobs.tracking.store import digest, flat

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


@dataclass(frozen=True)
class Described:
    """What MLflow is told of a run beside its numbers.

    ``extent`` is what a run may be extended by and stays the same MLflow run: images, problems, seeds.
    """

    kind: str
    parameters: dict[str, Any]
    extent: dict[str, str]
    tasks: dict[str, dict[str, Any]]
    sources: dict[str, tuple[Any, Any, Any]]  # name of a data set: its digest, what it is, what is known of it

    def datasets(self) -> list[DatasetInput]:
        """Return the data as inputs of an MLflow run."""
        from mlflow.entities import Dataset, DatasetInput

        return [
            DatasetInput(Dataset(name, str(digest)[:36], "ipsolve", json.dumps(source), profile=json.dumps(known)), [])
            for name, (digest, source, known) in self.sources.items()
        ]


def describe(config: dict[str, Any], provenance: dict[str, Any]) -> Described:
    """Return what the configuration and the provenance of a run say of it."""
    precision, extent = {"precision": config["compute"]["precision"]}, {"seeds": str(config["seed"])}
    if "problems" in config:
        families = {
            name: {k: v for k, v in given.items() if k != "num_problems"} for name, given in config["problems"].items()
        }
        extent |= {f"num_problems.{name}": str(given["num_problems"]) for name, given in config["problems"].items()}
        shared = {key: config[key] for key in ("samples", "slices", "problem_seed")} | precision
        tasks = {name: flat("problems", family) for name, family in families.items()}
        nothing: dict[str, str] = {}
        sources = {
            name: (digest([family, config["problem_seed"]]), family, nothing) for name, family in families.items()
        }
        return Described("posterior", shared, extent, tasks, sources)
    data = {key: value for key, value in config["data"].items() if key not in EXTENT}
    extent |= {key: str(config["data"].get(key)) for key in EXTENT}
    networks = flat("weights", provenance.get("networks", {}))
    samples = {"samples": config["samples"]} if config.get("samples", 1) > 1 else {}  # as in what a cell is
    shared = {**flat("data", data), **flat("prior", config["prior"]), **precision, **networks, **samples}
    tasks = {name: flat("task", task) for name, task in config["tasks"].items()}
    known = provenance.get("data") or {}
    # of what was read, to the last image; before the end, and of runs that did not take it, of names and sizes
    read = provenance.get("images_read") or {}
    named = read.get("digest") or known.get("digest", digest(config["data"]))
    sources = {str(data.get("source")): (named, config["data"], known | ({"images_read": read} if read else {}))}
    return Described("evaluation", shared, extent, tasks, sources)

"""The configuration of an evaluation: its keys, their types and defaults, and how it is read.

A file is YAML; ``key=value`` words on the command line replace single entries by their dotted path, their value
read as YAML too. What the names in it mean (operators, solvers, ...) is checked by :mod:`ipsolve.runs.experiment`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ipsolve.files.filesystems import is_uri, join, open_location, reason
from ipsolve.metrics import USUAL, Entry, Weights
from ipsolve.priors.networks.unet import Precision
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

# keys of ``data`` that say which images of a source: a run can be extended by them, no number depends on them
EXTENT = ("offset", "limit")
# names become folders and hive keys: nothing that leaves a folder, hides, or is read back as a number
_READ_AS_ANOTHER = ("nan", "inf", "infinity", "true", "false", "epoch", "null", "none", "na")


def _read_back(name: str) -> str:
    # DuckDB makes a date of infinity and epoch, polars numbers and truth values, pandas nothing of null in a CSV
    if name.lower() in _READ_AS_ANOTHER:
        words = ", ".join(_READ_AS_ANOTHER)
        raise ValueError(f"other tools take {name!r} for something else than a name; allowed: words other than {words}")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,63}$"), AfterValidator(_read_back)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]  # a column of Parquet holds it


def _of_one_gpu_or_whole(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():  # Ray says so only when the first actor is to start
        raise ValueError(f"must be at most 1, a share of a GPU, or a whole number of GPUs (got {gpus:g})")
    return gpus


@dataclass(frozen=True, config={"extra": "forbid"})
class Compute:
    """Where and how the work is done; of these only ``precision`` belongs to the numbers.

    Args:
        num_actors: solver processes; ``auto``: one per GPU share, without GPUs one per ``cpus_per_actor`` cores.
        gpus_per_actor: a share of one GPU, or a whole number; ``auto``: 1 where there are GPUs, else 0.
        cpus_per_actor: cores of an actor, and its torch threads; ``auto``: an eighth of its node, at least 1.
        batch_size: images solved together.
        precision: of the networks' arithmetic; float64 makes images float64 as well.
        accelerator_type: the kind of GPU that actors run on, by Ray's name (``H100``, ``A100``, ``L4``, ...), where a
            cluster has several and seconds are to be compared; null, any.
    """

    num_actors: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    gpus_per_actor: Annotated[float, Field(ge=0), AfterValidator(_of_one_gpu_or_whole)] | Literal["auto"] = "auto"
    cpus_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    precision: Precision = "float32"
    accelerator_type: str | None = None


@dataclass(frozen=True, config={"extra": "forbid"})
class Tracking:
    """Where MLflow keeps the run; ``uri`` null is a SQLite file in the output folder."""

    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1)] = "ipsolve"


class RunConfig:
    """What the configurations of all kinds of runs share."""

    name: str
    seed: int | list[int]
    baseline: str | None
    compute: Compute
    output: str
    tracking: Tracking

    @property
    def seeds(self) -> list[int]:
        """The seeds, each once."""
        return list(dict.fromkeys([self.seed] if isinstance(self.seed, int) else self.seed))

    @property
    def run_location(self) -> str:
        """The folder of this run."""
        return join(self.output, self.name)


@dataclass(frozen=True, config={"extra": "forbid"})
class Config(RunConfig):
    """One evaluation: every task by every solver over the images of ``data``.

    Args:
        name: of the run, its folder under ``output``.
        data: ``source``, ``offset``, ``limit`` and what else the kind of source takes.
        prior: ``prior`` (its kind) and the kind's own keys.
        tasks: a name of your choice: ``operator``, ``noise_std``, and the operator's own keys.
        solvers: a name of your choice: ``solver`` and the solver's hyper-parameters.
        seed: one seed, or several for repeated measurements.
        samples: reconstructions of each image, from independent calls with the same measurement.
        baseline: the solver that the others are compared with.
        metrics: of images and of sets: names, or ``{metric: NAME, ...}`` with settings.
        headline: the metric of images that the report is read by; null: psnr if it is asked for, else the first.
        published: a YAML file of published figures to print beside the measured ones.
        output: the folder of runs: a local path, or a URI as :mod:`ipsolve.files.filesystems` opens it.
    """

    name: RunName
    data: dict[str, Any]
    prior: dict[str, Any]
    tasks: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    solvers: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    seed: Seed | Annotated[list[Seed], Field(min_length=1)] = 0
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    baseline: str | None = None
    metrics: list[Entry] = dataclasses.field(default_factory=lambda: [*USUAL])
    headline: str | None = None
    weights: Weights = dataclasses.field(default_factory=Weights)
    published: str | None = None
    compute: Compute = dataclasses.field(default_factory=Compute)
    output: str = "runs"
    tracking: Tracking = dataclasses.field(default_factory=Tracking)


@dataclass(frozen=True, config={"extra": "forbid"})
class Published:
    """Figures from the literature: ``results`` maps task to solver to metric to value."""

    title: str
    results: dict[str, dict[str, dict[str, float]]]
    source: str = ""
    note: str = ""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration in a YAML file, with ``overrides`` applied.

    Args:
        path: of the file, or its URI.
        overrides: words such as ``solvers.resample.num_steps=100`` or ``seed=[0,1]``.

    Raises:
        RequestError: the file is missing or not YAML, or a key or value in it is wrong.
    """
    return build(Config, read_mapping(path, overrides), "")


def load_published(path: str | Path) -> Published:
    """Return the published figures in a YAML file; RequestError if it has none."""
    return build(Published, read_mapping(path), str(path))


def read_mapping(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the mapping in a YAML file with ``overrides`` applied; RequestError if there is none.

    A local ``output`` has the user's home in the place of a leading ``~``, whatever kind of run it is of.
    """
    mapping = _read_yaml(path)
    for word in overrides:
        _override(mapping, word)
    output = mapping.get("output")
    if isinstance(output, str) and not is_uri(output):
        mapping["output"] = os.path.expanduser(output)  # a shell leaves the ~ of output=~/runs alone
    return mapping


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        content = read_yaml(_read(path).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RequestError("", f"cannot read the configuration {str(path)!r}: {why}") from None
    except yaml.YAMLError as error:
        raise RequestError("", f"{path} is not YAML that can be taken: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise RequestError("", f"{path} must hold a mapping of keys to values")
    return content


def _read(path: str | Path) -> bytes:
    if not is_uri(path):
        return Path(path).read_bytes()
    filesystem, place = open_location(path, "config")
    with filesystem.open_input_stream(place) as stream:
        return bytes(stream.read())


def _override(mapping: dict[str, Any], word: str) -> None:
    key, separator, text = word.partition("=")
    if not separator or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise RequestError("", f"override {word!r} must look like key=value or section.key=value")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        why = f"its value is not YAML that can be taken: {_one_line(error)}"
        raise RequestError(f"override {word!r}", why) from None
    *sections, last = key.split(".")
    for section in sections:
        if mapping.get(section) is None:
            mapping[section] = {}
        mapping = mapping[section]
        if not isinstance(mapping, dict):
            raise RequestError(f"override {word!r}", f"{section!r} is a value, it has no keys")
    mapping[last] = value


class _Loader(yaml.SafeLoader):
    """Plain data, as the one it is made of; a key that is there twice is an error and not the end of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Return the content of a YAML text, plain data only; yaml.YAMLError if it is none, or has a key twice."""
    return yaml.load(text, Loader=_Loader)


def _one_line(error: yaml.YAMLError) -> str:
    mark, problem = (getattr(error, f"problem{part}", None) for part in ("_mark", ""))
    text = f"line {mark.line + 1}: {problem}" if mark and problem else str(error)
    return " ".join(text.split())

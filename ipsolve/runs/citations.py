"""What a run is to cite: the publications of its solvers, operators, metrics and data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ipsolve.citation import Citation, cited
from ipsolve.metrics import FEATURES, METRICS, SET_METRICS, names_of
from ipsolve.operators import NOISES, OPERATORS
from ipsolve.solvers import SOLVERS


def citations(config: Mapping[str, Any]) -> list[Citation]:
    """Return what the run of a configuration uses that was published, each once, in the order of the configuration.

    Args:
        config: of an evaluation, with every default written out.
    """
    parts: list[Any] = [SOLVERS[each["solver"]] for each in config["solvers"].values()]
    for task in config["tasks"].values():
        parts += [OPERATORS[task["operator"]], NOISES[task.get("noise", "gaussian")]]
    for name in names_of(config["metrics"]):
        parts += [METRICS[name]] if name in METRICS else [SET_METRICS[name], FEATURES[SET_METRICS[name].features]]
    data = _data(str(config["data"].get("source", "")))
    return cited(parts) + ([data] if data else [])


def _data(source: str) -> Citation | None:
    """Return the entry of a data set that can be known by its name: what a folder holds only its owner knows."""
    kind, _, rest = source.partition(":")
    if kind != "hf" or rest[:1] in "/.~":  # a folder of their own, or a URI
        return None
    name = rest.rpartition(":")[0]
    key = re.sub(r"[^A-Za-z0-9]+", "", name)
    owner = name.partition("/")[0]
    return Citation(key, f"{{{owner}}}", name, None, url=f"https://huggingface.co/datasets/{name}")

"""Whether runs that were computed apart are parts of one experiment, and the configuration of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ipsolve.files.filesystems import is_uri
from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import EXTENT, RunName
from ray_jobs.pipeline.folder.provenance import same_images

Config = dict[str, Any]
# no number depends on them; the networks under ``weights`` are compared by check_cells
FREE = ("name", "output", "compute", "tracking", "baseline", "published", "weights")


def join_configs(configs: Mapping[str, Config], into: str) -> Config:
    """Return the configuration that asks for all that the configurations of some runs ask for.

    Raises:
        RequestError: one line that names the key in which two of them differ, or ``into`` is no place for a run.
    """
    (first, whole), *others = configs.items()
    whole = {**whole, **{key: dict(value) for key, value in whole.items() if isinstance(value, dict)}}
    for location, config in others:
        if ("problems" in config) != ("problems" in whole):
            raise RequestError(f"{location} is another kind of run than {first}")
        for key in config.keys() | whole.keys():
            _join(whole, config, key, f"{first} and {location}")
    return whole | _place(into)


def _place(into: str) -> Config:
    """Return the name and the output of a run that is to be at ``into``: the query of a URI belongs to the output."""
    place, mark, query = into.partition("?") if is_uri(into) else (into, "", "")
    folder, slash, name = place.rstrip("/").rpartition("/")
    if is_uri(into) and not is_uri(folder.rstrip("/")):
        raise RequestError("--into", f"{into} names no folder for the run; allowed: such as s3://BUCKET/runs/NAME")
    try:
        TypeAdapter(RunName).validate_python(name)
    except ValidationError:
        rule = "at most 128 letters, digits, '_', '.' and '-', the first of them a letter or digit"
        raise RequestError("--into", f"the run cannot have the name {name!r}; allowed: {rule}") from None
    return {"name": name, "output": (folder or slash or ".") + mark + query}


def _join(whole: Config, config: Config, key: str, where: str) -> None:
    mine, other = whole.get(key), config.get(key)
    if key == "seed":
        seeds = [*_list(mine), *_list(other)]
        whole[key] = list(dict.fromkeys(seeds)) if len(set(seeds)) > 1 else seeds[0]
    elif key == "data" and isinstance(mine, dict) and isinstance(other, dict):
        _same(_without(mine, *EXTENT), _without(other, *EXTENT), key, where)
        whole[key] = mine | _extent(mine, other)
    elif key == "compute" and isinstance(mine, dict) and isinstance(other, dict):
        _same(mine.get("precision"), other.get("precision"), "compute.precision", where)
    elif key in ("tasks", "solvers", "problems") and isinstance(mine, dict) and isinstance(other, dict):
        for name in mine.keys() & other.keys():
            _same(_without(mine[name], "num_problems"), _without(other[name], "num_problems"), f"{key}.{name}", where)
            if "num_problems" in mine[name]:
                most = max(mine[name]["num_problems"], other[name]["num_problems"])
                mine[name] = mine[name] | {"num_problems": most}
        whole[key] = mine | {name: entry for name, entry in other.items() if name not in mine}
    elif key == "baseline":
        whole[key] = mine or other
    elif key not in FREE:
        _same(mine, other, key, where)


def _extent(mine: Config, other: Config) -> Config:
    """Return the stretch of images that holds both: what lies between them, if anything, is missing from the whole."""
    offsets, limits = [data.get("offset", 0) for data in (mine, other)], [data.get("limit") for data in (mine, other)]
    start = min(offsets)
    ends = [offset + limit for offset, limit in zip(offsets, limits, strict=True) if limit is not None]
    limit = max(ends) - start if len(ends) == 2 else None
    return {"limit": limit} | ({"offset": start} if start or "offset" in mine else {})


def check_cells(origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RequestError where runs mean different things by the same cell, as with another prior or other images."""
    for (first, mine), (second, other) in combinations(origins.items(), 2):
        networks, others = mine.get("networks", {}), other.get("networks", {})
        for key in sorted(networks.keys() | others.keys()):
            # absent: the one that goes without saying
            _same(networks.get(key, "default"), others.get(key, "default"), f"weights.{key}", f"{first} and {second}")
        data, more = mine.get("data", {}), other.get("data", {})
        if not same_images(data, more):
            why = f"{data.get('n')} in both, but the digests of names and sizes are {data.get('digest')} and"
            raise RequestError("data", f"{first} and {second} have not the same images: {why} {more.get('digest')}")
    known: dict[str, tuple[str, str]] = {}
    for location, origin in origins.items():
        for cell_hash, name in origin.get("cells", {}).items():
            at, expected = known.setdefault(name, (location, cell_hash))
            if cell_hash != expected:
                differ = [key for key in ("prior_fingerprint", "data") if origin.get(key) != origins[at].get(key)]
                why = f"they differ in {' and '.join(differ)}" if differ else "their settings differ"
                raise RequestError(f"{name} is not the same in {at} and {location}: {why}")


def _same(mine: object, other: object, key: str, where: str) -> None:
    if mine != other:
        raise RequestError(f"{key} differs between {where}: {_short(mine)} and {_short(other)}")


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _without(mapping: Config, *keys: str) -> Config:
    return {key: value for key, value in mapping.items() if key not in keys}

"""Which safetensors of a component are read, and reading them.

The files of one component are called by a stem, by a variant where there is one, and as shards by their number:

    STEM.safetensors            STEM-00001-of-00002.safetensors
    STEM.VARIANT.safetensors    STEM.VARIANT-00001-of-00002.safetensors

and STEM-00001-of-00002.VARIANT.safetensors in older folders. ``STEM.safetensors.index[.VARIANT].json`` names the shard
of each tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from ipsolve.priors.networks.hub import how_to_fetch
from ipsolve.requests.errors import RequestError

T = TypeVar("T")
STEM, TEXT_STEM = "diffusion_pytorch_model", "model"  # of diffusers, and of transformers, which writes text encoders
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_SHARD = r"-\d+-of-\d+"
# attention weights were called so before diffusers 0.14; published folders still are
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def stem_of(folder: Path) -> str:
    """Return what the weight files of a component are called by."""
    return TEXT_STEM if folder.name.startswith("text_encoder") else STEM


def variant_of(name: str, stem: str) -> str | None:
    """Return the variant in the name of a weight file or of an index, "" for none; None for a file that is neither."""
    weights = re.fullmatch(rf"{stem}(?:\.(\w+))?(?:{_SHARD})?(?:\.(\w+))?\.safetensors", name)
    index = re.fullmatch(rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json", name)
    found = weights or index
    return None if found is None else next(filter(None, found.groups()), "")


def files_of(folder: Path, variant: str | None = None) -> tuple[list[Path], dict[str, str] | None]:
    """Return the weight files that are read, and the file of each tensor where an index says it.

    Without ``variant`` the files without one are read, or those of the only one there is. An index names exactly what
    is read.

    Raises:
        RequestError: there are no such files, or several variants and none is asked for; an index beside a file that is
            not sharded, or one that names what is not there.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (each := variant_of(path.name, stem_of(folder))) is not None:
            found.setdefault(each, []).append(path)
    chosen = _choose(folder, found, variant)
    indices = [path for path in found[chosen] if path.suffix == ".json"]
    weights = [path for path in found[chosen] if path.suffix == ".safetensors"]
    if not indices:
        return weights, None
    whole = [path for path in weights if not re.search(_SHARD, path.name)]
    if whole:
        names = f"{indices[0].name} and {whole[0].name}"
        raise RequestError(f"prior.path: {folder} holds {names}: only one of them can be meant, remove the other")
    shards = _shards(indices[0])
    return [folder / name for name in sorted(set(shards.values()))], shards


def read(folder: Path, get: Callable[[Any, str], T], variant: str | None = None) -> dict[str, T]:
    """Return what ``get`` makes of each tensor in the files of a component, given an open file and a name.

    Raises:
        RequestError: as :func:`files_of`, or a file that cannot be read, a tensor that two files hold, or one that is
            not where the index says.
    """
    files, shards = files_of(folder, variant)
    tensors: dict[str, T] = {}
    source: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if shards is not None:
                    _require_index(path, set(names), {name for name, shard in shards.items() if shard == path.name})
                for name in names:
                    current = _current_name(name)
                    if current in tensors:
                        raise RequestError(f"prior.path: {folder}: {_twice(name, source[current], path)}")
                    tensors[current], source[current] = get(file, name), path
        except (SafetensorError, OSError) as error:
            raise RequestError(f"prior.path: {path} is not a safetensors file: {error}") from None
    return tensors


def _twice(name: str, first: Path, second: Path) -> str:
    if first == second:
        return f"{first.name} holds {name} under its old and its new name"
    return f"{first.name} and {second.name} both hold {name}: remove those that are not meant"


def _choose(folder: Path, found: dict[str, list[Path]], variant: str | None) -> str:
    names = sorted(filter(None, found))
    if variant is not None:
        if variant in found:
            return variant
        there = ", ".join(names) or "none"
        raise RequestError("prior.variant", f"{folder} has no weights of the variant {variant!r}; there: {there}")
    if "" in found:
        return ""
    if len(names) == 1:
        return names[0]
    if names:
        raise RequestError("prior.variant", f"is required, {folder} has several: {', '.join(names)}")
    pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLED] if folder.is_dir() else []
    if pickled:
        raise RequestError(
            f"prior.path: {folder} has pickled weights ({pickled[0]}), only safetensors are read; "
            "convert them with python -m ray_jobs.convert"
        )
    raise RequestError(f"prior.path: {folder} has no {stem_of(folder)}.safetensors{how_to_fetch(folder)}")


def _shards(index: Path) -> dict[str, str]:
    """Return the file of each tensor; a file can only be one that lies beside the index."""
    try:
        shards = json.loads(index.read_text())["weight_map"]
        entries = [(str(name), str(file)) for name, file in shards.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"prior.path: {index} is not an index of weights: it has no weight_map") from None
    for _, file in entries:
        if not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise RequestError(f"prior.path: {index} names {file!r}, which is no safetensors file beside it")
        if not (index.parent / file).is_file():
            raise RequestError(f"prior.path: {index} names {file}, which is not there")
    if not entries:
        raise RequestError(f"prior.path: {index} names no weights")
    return dict(entries)


def _require_index(path: Path, held: set[str], named: set[str]) -> None:
    for problem, names in (("lacks", named - held), ("holds", held - named)):
        if names:
            says = "that the index says it has" if problem == "lacks" else "that the index does not say it has"
            raise RequestError(f"prior.path: {path} {problem} {min(names)}, {says}")


def _current_name(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name

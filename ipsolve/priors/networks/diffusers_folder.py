"""Reading a prior from a folder in the layout of diffusers: ``<component>/config.json`` and safetensors beside it.

Own loading instead of ``from_pretrained``, because that fills missing weights with random numbers and only warns.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ipsolve.files.filesystems import require_local
from ipsolve.priors.networks import hub, weight_files
from ipsolve.priors.networks.own import OWN
from ipsolve.requests.errors import RequestError

Config = dict[str, Any]
_AT_THE_TOP = {"unet": "config.json", "scheduler": "scheduler_config.json"}
_SHIPPED = Path(__file__).parents[1] / "builtin"
_NETWORKS_OF = {"portraits-64-flow": "portraits-64"}  # shipped folders with nothing but a scheduler of their own


def resolve(path: str, variant: str | None = None) -> Path:
    """Return the folder that ``path`` names.

    ``builtin:NAME`` is one that ships with ipsolve, ``hf:ORG/NAME`` one in the cache of huggingface_hub.

    Raises:
        RequestError: there is no such folder.
    """
    if path.startswith("builtin:"):
        folder = _SHIPPED / path.removeprefix("builtin:")
        if folder.parent != _SHIPPED or not folder.is_dir():
            names = ", ".join(f"builtin:{p.name}" for p in sorted(_SHIPPED.glob("*/"))) or "none"
            raise RequestError(f"prior.path: no prior {path!r}; built in: {names}")
        return folder
    if path.startswith(hub.PREFIX):
        return hub.cached(path, variant)
    require_local(path, "prior.path")
    folder = Path(path).expanduser()
    if folder.is_file():
        raise RequestError(
            f"prior.path: {path} is a file, not a folder; convert a checkpoint with python -m ray_jobs.convert"
        )
    if not folder.is_dir():
        raise RequestError(
            f"prior.path: folder {path} does not exist; make it with python -m ray_jobs.convert CHECKPOINT {path}"
        )
    return folder


def component_folder(folder: Path, component: str) -> Path:
    """Return where a component lies: in a folder of its name, or as in google/ddpm-* at the top.

    A folder that ships with the networks of another has those of the other.
    """
    if folder.parent == _SHIPPED and not (folder / component).is_dir():
        folder = _SHIPPED / _NETWORKS_OF.get(folder.name, folder.name)
    at_the_top = _AT_THE_TOP.get(component)
    if at_the_top and not (folder / component).is_dir() and (folder / at_the_top).is_file():
        return folder
    return folder / component


def has_autoencoder(folder: Path) -> bool:
    """Return whether the states of a folder's prior are latents: it holds ``vae/`` or ``vqvae/``."""
    return any(component_folder(folder, name).is_dir() for name in ("vae", "vqvae"))


def read_config(folder: Path, component: str, file: str = "config.json") -> Config:
    """Return the JSON configuration of a component.

    Raises:
        RequestError: the component is missing or its configuration is not a JSON object.
    """
    path = component_folder(folder, component) / file
    if not path.is_file():
        raise RequestError(f"prior.path: {folder} has no {component}/{file}{hub.how_to_fetch(folder)}")
    try:
        config = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise RequestError(f"prior.path: {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"prior.path: {path} is not a JSON object")
    return config


def network_config(folder: Path, component: str, allowed: Collection[str]) -> Config:
    """Return the configuration of a network; RequestError if its class is not one of ``allowed``."""
    config = read_config(folder, component)
    name = config.get("_class_name")
    if name not in allowed:
        raise RequestError(f"prior.path: {folder / component} is a {name}; allowed: {', '.join(allowed)}")
    return config


def setting(config: Config, key: str) -> Any:
    """Return a value of a configuration of diffusers; where it is absent, the default of its class.

    None is also what a class has of a key that it does not know: diffusers leaves such keys out.
    """
    import diffusers

    parameters = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters
    if key not in parameters:
        return None
    default = parameters[key].default
    return config.get(key, None if default is inspect.Parameter.empty else default)


def check_network(folder: Path, component: str, allowed: Collection[str], variant: str | None = None) -> nn.Module:
    """Return a network without its weights, of which only names and shapes are read.

    Raises:
        RequestError: where :func:`load_network` would.
    """
    config = network_config(folder, component, allowed)
    where = component_folder(folder, component)
    module = without_weights(config, f"prior.path: {where / 'config.json'}")
    shapes = weight_files.read(where, lambda file, name: tuple(file.get_slice(name).get_shape()), variant)
    require_fit(module, shapes, f"prior.path: {where}")
    return module


def load_network(
    folder: Path, component: str, allowed: Collection[str], dtype: torch.dtype, variant: str | None = None
) -> nn.Module:
    """Return a network of diffusers or of ours, its weights cast to ``dtype``.

    Raises:
        RequestError: the component is missing, of another class, has no safetensors, or its weights do not fit
            its configuration.
    """
    config = network_config(folder, component, allowed)
    where = component_folder(folder, component)
    module = without_weights(config, f"prior.path: {where / 'config.json'}")
    fill(module, load_weights(where, dtype, variant), f"prior.path: {where}")
    return module


def load_weights(folder: Path, dtype: torch.dtype, variant: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a component, real ones cast to ``dtype``; RequestError as :func:`weight_files.read`."""
    weights = weight_files.read(folder, lambda file, name: cast(Tensor, file.get_tensor(name)), variant)
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def without_weights(config: Config, where: str) -> nn.Module:
    """Return the network that ``config`` describes, its parameters without storage (on the meta device)."""
    with torch.device("meta"):
        try:
            if config["_class_name"] in OWN:
                return cast(nn.Module, OWN[config["_class_name"]].from_config(config))
            import diffusers  # slow to import, and not needed to check a request

            return cast(nn.Module, getattr(diffusers, config["_class_name"]).from_config(config))
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            raise RequestError(f"{where} is not valid: {' '.join(str(error).split())}") from None


def fill(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Give ``module`` its weights, without a copy. Of weights that it ties, one is enough.

    Raises:
        RequestError: a weight is missing, unexpected, or of another shape than the configuration implies.
    """
    require_fit(module, {name: tuple(tensor.shape) for name, tensor in weights.items()}, where)
    whole = dict(weights)
    for names in _tied(module):
        held = next(weights[name] for name in names if name in weights)
        whole |= {name: held for name in names if name not in weights}
    module.load_state_dict(whole, assign=True)


def require_fit(module: nn.Module, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise RequestError unless tensors of these names and shapes are the weights of ``module``."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = expected.keys() - found.keys()
    for names in _tied(module):
        if not missing.issuperset(names):
            missing -= set(names)
    for problem, wrong in (("lacks", missing), ("holds unexpected", found.keys() - expected.keys())):
        if wrong:
            raise RequestError(f"{where} {problem} {len(wrong)} weights, the first being {min(wrong)}")
    for name, shape in expected.items():
        if found.get(name, shape) != shape:
            raise RequestError(f"{where}: {name} has shape {found[name]}, its configuration implies {shape}")


def _tied(module: nn.Module) -> list[list[str]]:
    """Return the groups of names that are one weight: a file may hold it under one of them."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups[id(parameter)].append(name)
    return [names for names in groups.values() if len(names) > 1]


def fingerprint(folder: Path, components: tuple[str, ...], variant: str | None = None) -> str:
    """Return the SHA-256 of all configurations and of the weights that are read, hexadecimal.

    Cached until a file changes its size or modification time.
    """
    files: list[tuple[Path, Path]] = []  # and the folder that their names start in
    for where in (component_folder(folder, component) for component in components):
        found = [p for p in where.iterdir() if p.suffix in (".json", ".txt")]
        if (where / "config.json").is_file():
            found += weight_files.files_of(where, variant)[0]
        top = folder if where.is_relative_to(folder) else where.parent
        files += [(path, top) for path in sorted(found)]
    return _sha256(tuple((str(p), str(p.relative_to(t)), p.stat().st_size, p.stat().st_mtime_ns) for p, t in files))


@lru_cache(maxsize=16)
def _sha256(files: tuple[tuple[str, str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

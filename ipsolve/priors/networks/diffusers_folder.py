"""Reading a prior from a folder in the layout of diffusers: ``<component>/config.json`` and safetensors beside it.

Own loading instead of ``from_pretrained``, because that fills missing weights with random numbers and only warns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ipsolve.files.filesystems import require_local
from ipsolve.priors.networks.own import OWN
from ipsolve.priors.networks.schedule_files import read_schedule
from ipsolve.priors.schedules import Schedule, cosine, from_betas, linear, scaled_linear
from ipsolve.requests.errors import RequestError

T = TypeVar("T")
Config = dict[str, Any]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
# attention weights were called so before diffusers 0.14; published folders still are
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def resolve(path: str) -> Path:
    """Return the folder that ``path`` names; ``builtin:NAME`` is one that ships with ipsolve.

    Raises:
        RequestError: there is no such folder.
    """
    shipped = Path(__file__).parents[1] / "builtin"
    if path.startswith("builtin:"):
        folder = shipped / path.removeprefix("builtin:")
        if folder.parent != shipped or not folder.is_dir():
            names = ", ".join(f"builtin:{p.name}" for p in sorted(shipped.glob("*/"))) or "none"
            raise RequestError(f"prior.path: no prior {path!r}; built in: {names}")
        return folder
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


def read_config(folder: Path, component: str, file: str = "config.json") -> Config:
    """Return the JSON configuration of a component.

    Raises:
        RequestError: the component is missing or its configuration is not a JSON object.
    """
    path = folder / component / file
    if not path.is_file():
        raise RequestError(f"prior.path: {folder} has no {component}/{file}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
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


def check_network(folder: Path, component: str, allowed: Collection[str]) -> None:
    """Raise RequestError where :func:`load_network` would; of the weights only names and shapes are read."""
    config = network_config(folder, component, allowed)
    module = without_weights(config, f"prior.path: {folder / component / 'config.json'}")
    shapes = _read(folder / component, lambda file, name: tuple(file.get_slice(name).get_shape()))
    _require_fit(module, shapes, f"prior.path: {folder / component}")


def load_network(folder: Path, component: str, allowed: Collection[str], dtype: torch.dtype) -> nn.Module:
    """Return a network of diffusers or of ours, its weights cast to ``dtype``.

    Raises:
        RequestError: the component is missing, of another class, has no safetensors, or its weights do not fit
            its configuration.
    """
    config = network_config(folder, component, allowed)
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in _read(folder / component, lambda file, name: file.get_tensor(name)).items()
    }
    module = without_weights(config, f"prior.path: {folder / component / 'config.json'}")
    fill(module, weights, f"prior.path: {folder / component}")
    return module


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
    """Give ``module`` its weights, without a copy.

    Raises:
        RequestError: a weight is missing, unexpected, or of another shape than the configuration implies.
    """
    _require_fit(module, {name: tuple(tensor.shape) for name, tensor in weights.items()}, where)
    module.load_state_dict(weights, assign=True)


def _require_fit(module: nn.Module, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for problem, names in (
        ("lacks", expected.keys() - found.keys()),
        ("holds unexpected", found.keys() - expected.keys()),
    ):
        if names:
            raise RequestError(f"{where} {problem} {len(names)} weights, the first being {min(names)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise RequestError(f"{where}: {name} has shape {found[name]}, its configuration implies {shape}")


def load_schedule(folder: Path) -> tuple[Schedule, str]:
    """Return the noise schedule and the prediction type of ``scheduler/scheduler_config.json``.

    Keys that are absent have the defaults of diffusers' DDIMScheduler.

    Raises:
        RequestError: a schedule or prediction type that is not supported.
    """
    config = read_config(folder, "scheduler", "scheduler_config.json")
    where = f"prior.path: {folder / 'scheduler' / 'scheduler_config.json'}"
    if found := read_schedule(config, where):
        return found
    prediction_type = str(config.get("prediction_type", "epsilon"))
    if prediction_type not in PREDICTION_TYPES:
        raise RequestError(f"{where}: prediction_type {prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    if config.get("rescale_betas_zero_snr"):
        raise RequestError(f"{where}: rescale_betas_zero_snr is not supported, its last alpha is 0")
    steps_offset, end_clean = int(config.get("steps_offset", 0)), bool(config.get("set_alpha_to_one", True))
    if config.get("trained_betas") is not None:
        return from_betas(
            np.asarray(config["trained_betas"], dtype=np.float64), steps_offset, end_clean
        ), prediction_type
    n = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    match config.get("beta_schedule"):
        case "linear":
            schedule = linear(start, end, n, steps_offset, end_clean)
        case "scaled_linear":
            schedule = scaled_linear(start, end, n, steps_offset, end_clean)
        case "squaredcos_cap_v2":
            schedule = cosine(n, steps_offset, end_clean)
        case other:
            raise RequestError(f"{where}: beta_schedule {other!r}; allowed: linear, scaled_linear, squaredcos_cap_v2")
    return schedule, prediction_type


def fingerprint(folder: Path, components: tuple[str, ...]) -> str:
    """Return the SHA-256 of all configurations and weights of the components, hexadecimal.

    Cached until a file changes its size or modification time.
    """
    files = [p for c in components for p in sorted((folder / c).iterdir()) if p.suffix in (".json", ".safetensors")]
    return _sha256(tuple((str(p), str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=16)
def _sha256(files: tuple[tuple[str, str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _read(folder: Path, get: Callable[[Any, str], T]) -> dict[str, T]:
    """Return what ``get`` makes of each tensor in the files of a component, given an open file and a name."""
    plain = folder / "diffusion_pytorch_model.safetensors"
    files = [plain] if plain.is_file() else sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in _PICKLED]
        if pickled:
            raise RequestError(
                f"prior.path: {folder} has pickled weights ({pickled[0]}), only safetensors are read; "
                "convert them with python -m ray_jobs.convert"
            )
        raise RequestError(f"prior.path: {folder} has no diffusion_pytorch_model.safetensors")
    weights: dict[str, T] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118, the handle is no iterable
                    weights[_current_name(name)] = get(file, name)
        except SafetensorError as error:
            raise RequestError(f"prior.path: {path} is not a safetensors file: {error}") from None
    return weights


def _current_name(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name

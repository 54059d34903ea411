"""Turn a published checkpoint into a prior folder: diffusers layout, safetensors.

Usage: ``python -m ray_jobs.convert CHECKPOINT OUT_DIR [--weights raw|ema] [--flags FLAGS]``. CHECKPOINT is a file of
tensors (.pt, .pth, .ckpt, .safetensors): a CompVis LDM, guided diffusion (ADM), EDM, EDM2 or score_sde; or a folder in
diffusers layout whose weights are pickled (.bin), ``hf:ORG/NAME`` for one in the cache of huggingface_hub. Which of
them it is, is read off the names of its tensors.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ipsolve.files.filesystems import require_local
from ipsolve.priors.networks import hub, weight_files
from ipsolve.priors.networks.adm_checkpoint import parse_flags
from ipsolve.priors.networks.checkpoints import FAMILIES, Family, family_of, unwrapped
from ipsolve.priors.networks.compvis import COMPVIS, WeightsKind, read_checkpoint
from ipsolve.priors.networks.diffusers_folder import component_folder, has_autoencoder
from ipsolve.priors.networks.score_sde import averaged, read_score_sde
from ipsolve.requests.errors import RequestError
from ray_jobs import cli

_WEIGHTS = "diffusion_pytorch_model"
_NETWORKS = ("unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
_PICKLED = {weight_files.TEXT_STEM: "pytorch_model.bin"}
_PICKLE_TO_STATE = (
    "in a checkout of its authors' code, where you trust it: python -c \"import pickle, sys, torch; "
    "torch.save(pickle.load(open(sys.argv[1], 'rb'))['ema'].state_dict(), sys.argv[2])\" MODEL.pkl MODEL.pt"
)
# old Lightning files name this class as a dictionary key; an empty class stands in for it, so nothing of it is run
_INERT = type("Inert", (), {})
_HARMLESS: list[Any] = [(_INERT, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 converted, 2 the request is wrong."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.convert", description=__doc__)
    parser.add_argument("checkpoint", help="a file of tensors, or a folder with .bin weights")
    parser.add_argument("out_dir", help="the prior folder to write; must not exist or be empty")
    parser.add_argument(
        "--weights",
        choices=("raw", "ema"),
        help="which weights of a file that has both (default: raw of a CompVis file, ema of a score_sde file)",
    )
    parser.add_argument(
        "--flags",
        help="what the network was trained with, where its tensors do not tell: '--image_size 256 --num_heads 4 ...', "
        "as its authors write it, or a YAML file",
    )
    options = parser.parse_args(arguments)

    def command() -> int:
        checkpoint = options.checkpoint
        if checkpoint.startswith(hub.PREFIX):
            checkpoint = hub.cached(checkpoint, key="CHECKPOINT")
        for key, path in (("CHECKPOINT", checkpoint), ("OUT_DIR", options.out_dir)):
            require_local(str(path), key)
        convert(Path(checkpoint), Path(options.out_dir), options.weights, options.flags)
        return cli.COMPLETE

    return cli.run_command(command)


def convert(checkpoint: Path, out_dir: Path, kind: WeightsKind | None = None, flags: str | None = None) -> None:
    """Write the prior folder ``out_dir`` from ``checkpoint``, whole or not at all.

    Args:
        checkpoint: a file or a folder.
        out_dir: the folder to write; absent or empty.
        kind: which weights of a file that has both; None: raw of a CompVis file, ema of a score_sde file.
        flags: what a pixel prior was trained with: :func:`ipsolve.priors.networks.adm_checkpoint.parse_flags`.

    Raises:
        RequestError: the checkpoint cannot be read safely or is not one that is known.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise RequestError("OUT_DIR", f"{out_dir} exists and is not an empty folder")
    target = out_dir.resolve()
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")  # a sibling: renaming it is one step
    try:
        if checkpoint.is_dir():
            _refuse(kind, flags, "a folder")
            _convert_folder(checkpoint, unfinished)
        else:
            _convert_file(checkpoint, unfinished, kind, None if flags is None else parse_flags(flags))
        unfinished.rename(target)  # takes the place of an empty folder
    except BaseException:  # Ctrl-C too
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    print(f"done: use it with  prior: {{prior: {_prior_name(out_dir)}, path: {out_dir}}}")


def read_content(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint file holds, without running any code that it may hold.

    Raises:
        RequestError: no such file, another kind of file, or one that holds more than plain data.
    """
    if not path.is_file():
        raise RequestError("CHECKPOINT", f"{path} does not exist")
    if path.suffix == ".pkl":
        raise RequestError("CHECKPOINT", f"{path} holds Python code and is not unpickled; {_PICKLE_TO_STATE}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RequestError(
            "CHECKPOINT",
            f"{path} holds more than tensors, or is damaged, and is not unpickled; "
            "in an environment where you trust it, save only its 'state_dict' again with torch.save or safetensors",
        ) from None
    except Exception as error:  # bytes that are no pickle at all end in whatever opcode they happen to spell
        raise RequestError("CHECKPOINT", f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return content if isinstance(content, Mapping) else {}


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file; RequestError as :func:`read_content`."""
    return _tensors(read_content(path))


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dictionary: the content itself, or what Lightning or score_sde call so."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _convert_file(checkpoint: Path, out_dir: Path, kind: WeightsKind | None, flags: Mapping[str, Any] | None) -> None:
    print(f"reading {checkpoint}", flush=True)
    content = read_content(checkpoint)
    state = _tensors(content)
    if any(name.startswith(COMPVIS) for name in state):
        _refuse(None, flags, "a CompVis file")
        _convert_compvis(state, out_dir, kind or "raw")
    elif family := family_of(state):
        state = _chosen(content, unwrapped(state, family), family, kind)
        unet, scheduler, recognised = family.read(state, flags)
        millions = sum(p.numel() for p in unet.parameters()) / 1e6
        print(f"recognised {recognised}; writing unet: {millions:.1f} M parameters", flush=True)
        _write_network(out_dir / "unet", unet)
        _write_json(out_dir / "scheduler" / "scheduler_config.json", scheduler)
    else:
        looked_for = [(f"{COMPVIS}*", "CompVis latent diffusion"), *((f.sign, f.title) for f in FAMILIES)]
        raise RequestError(
            "CHECKPOINT",
            f"{checkpoint} is of no known family; looked for tensors called "
            + ", ".join(f"{sign} ({title})" for sign, title in looked_for),
        )


def _chosen(
    content: Mapping[str, Any], state: dict[str, Tensor], family: Family, kind: WeightsKind | None
) -> dict[str, Tensor]:
    """Return the state with the weights that were asked for; only files of score_sde have two sets."""
    average = content.get("ema")
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    if family.read is read_score_sde and isinstance(shadow, list) and kind != "raw":
        print("taking the ema weights", flush=True)
        return averaged(state, shadow)
    if kind == "ema":
        raise RequestError("--weights", "ema is not in this file; leave --weights out")
    return state


def _refuse(kind: WeightsKind | None, flags: object, what: str) -> None:
    for value, option in ((kind, "--weights"), (flags, "--flags")):
        if value is not None:
            raise RequestError(option, f"is not for {what}; leave it out")


def _convert_compvis(state: Mapping[str, Tensor], out_dir: Path, kind: WeightsKind) -> None:
    print(f"{len(state)} tensors; taking the {kind} UNet weights", flush=True)
    unet, autoencoder, scheduler = read_checkpoint(state, kind)
    for component, network in (("unet", unet), ("vqvae", autoencoder)):
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"writing {component}: {millions:.1f} M parameters", flush=True)
        _write_network(out_dir / component, network)
    _write_json(out_dir / "scheduler" / "scheduler_config.json", scheduler)
    members = {"scheduler": scheduler["_class_name"], "unet": "UNet2DModel", "vqvae": "VQModel"}
    index = {"_class_name": "LDMPipeline", **{name: ["diffusers", cls] for name, cls in members.items()}}
    _write_json(out_dir / "model_index.json", index)


def _convert_folder(folder: Path, out_dir: Path) -> None:
    schedule = component_folder(folder, "scheduler") / "scheduler_config.json"
    components = [name for name in _NETWORKS if (component_folder(folder, name) / "config.json").is_file()]
    if not components or not schedule.is_file():
        raise RequestError(
            "CHECKPOINT", f"{folder} has no <component>/config.json or no scheduler/scheduler_config.json"
        )
    for name in components:
        source = component_folder(folder, name)
        state = _state_of(source)
        print(f"writing {name}: {len(state)} tensors", flush=True)
        _write_json(out_dir / name / "config.json", json.loads((source / "config.json").read_text()))
        _write_weights(out_dir / name, state)
    _write_json(out_dir / "scheduler" / "scheduler_config.json", json.loads(schedule.read_text()))
    for path in [folder / "model_index.json", *folder.glob("tokenizer*/*.json"), *folder.glob("tokenizer*/*.txt")]:
        if path.is_file():
            (out_dir / path.relative_to(folder)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, out_dir / path.relative_to(folder))


def _state_of(component: Path) -> dict[str, Tensor]:
    """Return the weights of a component: its safetensors, else its pickle."""
    stem = weight_files.stem_of(component)
    if all(weight_files.variant_of(path.name, stem) is None for path in component.iterdir()):
        return read_state(component / _PICKLED.get(stem, f"{_WEIGHTS}.bin"))
    try:
        return weight_files.read(component, lambda file, name: cast(Tensor, file.get_tensor(name)))
    except RequestError as error:
        raise RequestError("CHECKPOINT", f"cannot be read: {str(error).removeprefix('prior.path: ')}") from None


def _write_network(folder: Path, network: nn.Module) -> None:
    _write_json(folder / "config.json", dict(network.config))  # type: ignore[arg-type]
    _write_weights(folder, network.state_dict())


def _write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    # copies: of a pickle two names may share one memory, which safetensors cannot say
    contiguous = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    save_file(contiguous, folder / f"{weight_files.stem_of(folder)}.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _prior_name(folder: Path) -> str:
    if (folder / "text_encoder").is_dir():
        transformer = folder / "transformer" / "config.json"
        named = json.loads(transformer.read_text()).get("_class_name") if transformer.is_file() else None
        return "flux" if named == "FluxTransformer2DModel" else "stable_diffusion"
    return "latent" if has_autoencoder(folder) else "pixel"


if __name__ == "__main__":
    sys.exit(main())

"""Whatever a person writes or a disk holds: a result or one line, never a traceback. Bounded, the same every time."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ipsolve.priors
from ipsolve.datasets import open_source
from ipsolve.datasets.base import ImageError
from ipsolve.priors import prior_spec
from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.signal import Signal

BUILTIN = Path(ipsolve.priors.__file__).parent / "builtin" / "portraits-64"
REQUEST: dict[str, Any] = {
    "name": "fuzz",
    "seed": 0,
    "data": {"source": "portraits:test", "offset": 1, "limit": 2},
    "prior": {"prior": "latent", "path": "builtin:portraits-64"},
    "tasks": {
        "sr": {"operator": "super_resolution", "factor": 4, "noise_std": 0.01},
        "box": {"operator": "box_inpainting", "box": 24, "noise": "poisson", "rate": 60.0},
        "blur": {"operator": "motion_blur", "kernel_size": 15, "intensity": 0.5, "noise_std": 0.01},
    },
    "solvers": {
        "tv": {"solver": "tv", "num_steps": 5},
        "ours": {"solver": "nullspace_resample", "num_steps": 5, "phase_boundaries": [0.2, 0.8]},
    },
    "samples": 1,
    "baseline": "tv",
    "metrics": ["psnr", "fid", {"metric": "ssim"}],
    "compute": {"num_actors": "auto", "batch_size": 2, "precision": "float32"},
    "output": "runs",
    "tracking": {"uri": None, "experiment": "fuzz"},
}
BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# numbers stay small: a thousand images asked for are a fair request, and would only be slow here
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**63, -(2**64), 10**400])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["auto", "8", "1e-3", "~", "", "..", "/", "psnr", "tv", "sr4", "float16", "builtin:nothing", "hf:a/b:c"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | scalars, inner, max_size=3),
    max_leaves=5,
)


def paths(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a request."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else []
    return [at, *(found for key in keys for found in paths(content[key], (*at, key)))]


def changed(place: tuple[Any, ...], value: Any, key: Any) -> dict[str, Any]:
    """Return the request with ``value`` at a place, or under one more key of the mapping that is there."""
    request = copy.deepcopy(REQUEST)
    holder: Any = request
    for part in place[:-1]:
        holder = holder[part]
    if isinstance(holder[place[-1]], dict) and key is not None:
        holder[place[-1]][key] = value
    else:
        holder[place[-1]] = value
    return request


def one_line(error: RequestError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) > 5


@BOUNDED
@given(place=st.sampled_from(paths(REQUEST)[1:]), value=values, key=st.none() | st.text(max_size=6))
def test_a_request_is_taken_or_refused_in_one_line(
    tmp_path: Path, place: tuple[Any, ...], value: Any, key: Any
) -> None:
    path = tmp_path / "request.yaml"
    try:
        path.write_text(yaml.safe_dump(changed(place, value, key), allow_unicode=True), encoding="utf-8")
    except (ValueError, yaml.YAMLError, UnicodeEncodeError):  # no such file can be written: half of a surrogate pair
        return
    try:
        Experiment.of(load_config(path))
    except RequestError as error:
        one_line(error)


@BOUNDED
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_a_file_that_is_no_request_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "request.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_config(path)
    one_line(caught.value)


def damaged(whole: bytes, cuts: list[tuple[float, bytes]], keep: float) -> bytes:
    """Return ``whole`` up to a share of it, with bytes written over."""
    content = bytearray(whole[: int(len(whole) * keep)])
    for share, what in cuts:
        at = int(share * len(content))
        content[at : at + len(what)] = what
    return bytes(content)


damages = {
    "cuts": st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4),
    "keep": st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.1, 0.0]),
}


def pictures(folder: Path, suffix: str) -> bytes:
    """Return the bytes of a picture of its kind, as its own library writes it."""
    path = folder / f"whole{suffix}"
    numbers = np.random.default_rng(0).random((1, 16, 16), dtype=np.float32)
    if suffix == ".npy":
        np.save(path, numbers)
    elif suffix == ".npz":
        np.savez(path, image=numbers)
    elif suffix in (".jpg", ".webp"):
        Image.fromarray((numbers[0] * 255).astype(np.uint8)).convert("RGB").save(path)
    else:
        Image.fromarray((numbers[0] * 65535).astype(np.uint16)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".npz", ".jpg", ".webp"])
@settings(BOUNDED, max_examples=60)
@given(**damages)
def test_a_damaged_picture_is_an_image_or_an_error_of_its_own(
    tmp_path: Path, suffix: str, cuts: list[tuple[float, bytes]], keep: float
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / f"a{suffix}").write_bytes(damaged(pictures(tmp_path, suffix), cuts, keep))
    signal = Signal.of((1, 16, 16)) if suffix not in (".jpg", ".webp") else None
    try:
        [image] = open_source(str(folder), 16, signal).load_batch([0], 16)
    except RequestError as error:  # an array's shape is read when a source is opened
        one_line(error)
        return
    if isinstance(image, ImageError):
        assert "\n" not in str(image)
    else:
        assert np.isfinite(np.asarray(image)).all()


@settings(BOUNDED, max_examples=80)
@given(entry=values, key=st.sampled_from(["dtype", "shape", "data_offsets", None]), **damages)
def test_a_damaged_weight_file_is_refused_by_the_check(
    tmp_path: Path, entry: Any, key: str | None, cuts: list[tuple[float, bytes]], keep: float
) -> None:
    folder = tmp_path / "prior"
    if not folder.exists():
        shutil.copytree(BUILTIN, folder)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    weights = next((BUILTIN / "unet").glob("*.safetensors")).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    name = sorted(header)[-1]
    if key is None:
        header[name] = entry
    else:
        header[name][key] = entry
    text = damaged(json.dumps(header).encode(), cuts, keep)
    target = next((folder / "unet").glob("*.safetensors"))
    target.write_bytes(len(text).to_bytes(8, "little") + text + weights[8 + length :])
    spec = prior_spec({"prior": "latent", "path": str(folder)})
    try:
        spec.summary()
        spec.check()
    except RequestError as error:
        one_line(error)

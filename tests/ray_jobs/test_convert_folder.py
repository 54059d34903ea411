"""Folders of diffusers, local or in the cache of huggingface_hub, become prior folders that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from ipsolve.priors import load_prior
from ray_jobs.convert import main
from tests.priors.flow_transformer_folders import flux, request_of, sd3
from tests.priors.stable_diffusion_folders import stable_diffusion
from tests.priors.test_hub import REPOSITORY, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stable_diffusion("1", tmp_path / "sd")
    return tmp_path / "sd"


def denoised(folder: Path) -> torch.Tensor:
    prior = load_prior({"prior": "stable_diffusion", "path": str(folder), "prompt": "a face", "guidance_scale": 3.0})
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return prior.denoise(x, prior.schedule.level(500))


def pickled(folder: Path) -> None:
    """Replace the weights by the pickles that older folders have."""
    names = {"diffusion_pytorch_model": "diffusion_pytorch_model", "model": "pytorch_model"}
    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), path.with_name(f"{names[path.stem]}.bin"))
        path.unlink()


@pytest.mark.parametrize("pickle", [False, True])
def test_stable_diffusion_is_converted_whole(
    folder: Path, tmp_path: Path, pickle: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = denoised(folder)
    if pickle:
        pickled(folder)
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert "prior: stable_diffusion" in capsys.readouterr().out
    torch.testing.assert_close(denoised(tmp_path / "out"), expected)
    assert list((tmp_path / "out").rglob("*.bin")) == []


@pytest.mark.parametrize(("kind", "make", "name"), [("sd3", sd3, "stable_diffusion"), ("dev", flux, "flux")])
def test_transformers_are_converted_whole(
    tmp_path: Path, kind: str, make: Callable[[Path], object], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / kind)
    out = tmp_path / f"{kind}-out"
    pickled(tmp_path / kind)
    assert main([str(tmp_path / kind), str(out)]) == 0
    assert f"prior: {name}," in capsys.readouterr().out
    make(tmp_path / kind)  # as it was
    whole, copy = (load_prior(request_of(folder, prompt="a face")) for folder in (tmp_path / kind, out))
    x = torch.randn(1, 4, 8, 8)
    t = whole.schedule.level(0.5)
    torch.testing.assert_close(copy.denoise(x, t), whole.denoise(x, t))


def test_a_cached_repository_is_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put(tmp_path / "hub", folder)
    assert main([f"hf:{REPOSITORY}", str(tmp_path / "out")]) == 0
    torch.testing.assert_close(denoised(tmp_path / "out"), denoised(folder))
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_what_is_not_cached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main([f"hf:{REPOSITORY}", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"CHECKPOINT: hf:{REPOSITORY} is not in the cache" in error
    assert f"hf download {REPOSITORY}" in error
    assert not (tmp_path / "out").exists()

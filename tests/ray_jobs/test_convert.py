"""The conversion command, from a file to a prior that computes what the checkpoint computes."""

import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ipsolve.priors import load_prior
from ray_jobs.convert import main
from tests.priors import adm_reference, edm_reference
from tests.priors import compvis_reference as reference
from tests.priors.compvis_reference import SMALL

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return reference.random_state(SMALL, ema=True)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def lightning_file(state: State, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as Lightning 1.4 writes it, with a class of its own among the keys."""
    package, module = types.ModuleType("pytorch_lightning"), "pytorch_lightning.callbacks.model_checkpoint"
    monkeypatch.setitem(sys.modules, "pytorch_lightning", package)
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("pytorch_lightning.callbacks"))
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    callback = type("ModelCheckpoint", (), {"__module__": module})
    setattr(sys.modules[module], "ModelCheckpoint", callback)  # noqa: B010, a module made here
    torch.save({"epoch": 3, "state_dict": state, "callbacks": {callback: {"best_model_path": "x"}}}, path)
    monkeypatch.undo()
    return path


@pytest.mark.parametrize("kind", ["raw", "ema"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_checkpoint_becomes_a_prior(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    source = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        lightning_file(state, source, monkeypatch)
    else:
        save_file(state, source)
    assert main([str(source), str(tmp_path / "prior"), "--weights", kind]) == 0

    prior = load_prior({"prior": "latent", "path": str(tmp_path / "prior")})
    assert (prior.image_shape, prior.latent_shape, prior.scaling_factor) == ((3, 256, 256), (3, 64, 64), 1.0)
    assert [level.time for level in prior.schedule.levels(500)] == [*range(999, 0, -2), 0]
    weights = state
    if kind == "ema":
        stem = "model.diffusion_model."
        names = [n for n in state if n.startswith(stem)]
        weights = {n: state[f"model_ema.{n.removeprefix('model.').replace('.', '')}"] for n in names}
    z = torch.randn(2, 3, 8, 8)
    t = prior.schedule.level(123)
    eps = reference.unet(weights, z, 123, SMALL, [], "model.diffusion_model.")
    assert torch.allclose(prior.denoise(z, t), (z - t.sigma * eps) / t.alpha, atol=1e-4)
    assert torch.allclose(prior.decode(z), reference.decode(state, z, SMALL, []), atol=1e-4)


def test_the_folder_says_what_it_is(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(state, tmp_path / "model.safetensors")
    assert main([str(tmp_path / "model.safetensors"), str(tmp_path / "prior")]) == 0
    out = capsys.readouterr().out
    assert "raw UNet weights" in out
    assert "prior: latent" in out
    assert sorted(p.name for p in (tmp_path / "prior").iterdir()) == ["model_index.json", "scheduler", "unet", "vqvae"]


def test_a_folder_with_pickled_weights(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.safetensors")
    main([str(tmp_path / "model.safetensors"), str(tmp_path / "safe")])
    stem = "diffusion_pytorch_model"
    for component in ("unet", "vqvae"):
        weights = tmp_path / "safe" / component / f"{stem}.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.rename(tmp_path / f"{component}.safetensors")
    assert main([str(tmp_path / "safe"), str(tmp_path / "again")]) == 0
    for component in ("unet", "vqvae"):
        before = load_file(tmp_path / f"{component}.safetensors")
        after = load_file(tmp_path / "again" / component / f"{stem}.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_prior({"prior": "latent", "path": str(tmp_path / "again")}).image_shape == (3, 256, 256)


class Surprise:
    """What pickle would run on loading."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "extra": Surprise()}, "model.ckpt")
    assert "save only its 'state_dict'" in fails(capsys, "model.ckpt", "prior")
    assert not Path("ran").exists()
    assert not Path("prior").exists()


def test_requests_that_cannot_be_met(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in fails(capsys, tmp_path / "absent.ckpt", tmp_path / "prior")
    (tmp_path / "text.ckpt").write_text("hello")
    assert "CHECKPOINT" in fails(capsys, tmp_path / "text.ckpt", tmp_path / "prior")
    (tmp_path / "text.safetensors").write_text("hello")
    assert "cannot be read" in fails(capsys, tmp_path / "text.safetensors", tmp_path / "prior")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    error = fails(capsys, tmp_path / "other.safetensors", tmp_path / "prior")
    assert (
        "is of no known family; looked for tensors called model.diffusion_model.* (CompVis latent diffusion), " in error
    )
    for family in (
        "input_blocks.0.0.weight (guided diffusion (ADM))",
        "(EDM)",
        "(EDM2)",
        "all_modules.0.* (score_sde)",
    ):
        assert family in error
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x04.")
    error = fails(capsys, tmp_path / "edm.pkl", tmp_path / "prior")
    assert "holds Python code and is not unpickled; " in error
    assert "['ema'].state_dict(), sys.argv[2])" in error
    raw_only = {name: w for name, w in state.items() if not name.startswith("model_ema.")}
    save_file(raw_only, tmp_path / "raw.safetensors")
    assert "--weights raw" in fails(capsys, tmp_path / "raw.safetensors", tmp_path / "prior", "--weights", "ema")
    for option in (("--weights", "raw"), ("--flags", "--image_size 256")):
        assert f"{option[0]}: is not for a folder" in fails(capsys, tmp_path, tmp_path / "prior", *option)
    assert "--flags: is not for a CompVis file" in fails(
        capsys, tmp_path / "raw.safetensors", tmp_path / "prior", "--flags", "--image_size 256"
    )
    assert not (tmp_path / "prior").exists()
    assert "OUT_DIR: must be a local folder" in fails(capsys, tmp_path / "raw.safetensors", "s3://bucket/prior")
    assert "not an empty folder" in fails(capsys, tmp_path / "raw.safetensors", tmp_path)


def test_pixel_priors_that_are_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--flags", "--image_size 16 --num_head_channels 16")
    source, into = tmp_path / "adm.pt", tmp_path / "prior"
    adm = adm_reference.random_state(adm_reference.SMALL)
    torch.save({**adm, "spare": torch.zeros(1)}, source)
    assert "holds unexpected 1 weights, the first being spare" in fails(capsys, source, into, *flags)
    torch.save(adm, source)
    assert "--weights: ema is not in this file" in fails(capsys, source, into, "--weights", "ema")
    assert "--flags '--image_size 256 ...'" in fails(capsys, source, into)
    assert not into.exists()
    assert main([str(source), str(into), *flags]) == 0
    edm = {f"model.{name}": w for name, w in edm_reference.random_state(edm_reference.SMALL).items()}
    torch.save({**edm, "u": torch.zeros(1001)}, source)
    assert "holds u beside the EDM network model.*; preconditioning iddpm" in fails(capsys, source, tmp_path / "edm")


def test_a_conversion_that_fails_half_way_leaves_nothing(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    main([str(tmp_path / "model.safetensors"), str(tmp_path / "source")])
    (tmp_path / "source" / "vqvae" / "diffusion_pytorch_model.safetensors").write_text("damaged")
    capsys.readouterr()
    into = tmp_path / "into"
    into.mkdir()
    assert "cannot be read" in fails(capsys, tmp_path / "source", into / "prior")  # the UNet was written before
    assert list(into.iterdir()) == []
    (into / "empty").mkdir(mode=0o750)
    assert "cannot be read" in fails(capsys, tmp_path / "source", into / "empty")
    assert [list(path.iterdir()) for path in into.iterdir()] == [[]]
    assert main([str(tmp_path / "model.safetensors"), str(into / "empty")]) == 0  # an empty folder is filled
    assert [path.name for path in into.iterdir()] == ["empty"]

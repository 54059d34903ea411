"""``hf:ORG/NAME``: from the cache of huggingface_hub, in its own layout, without a network."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import filter_repo_objects

from ipsolve.priors import load_prior, prior_spec
from ipsolve.priors.networks import hub
from ipsolve.requests.errors import RequestError
from ipsolve.runs.cells import describe
from tests.priors.conftest import WEIGHTS, small_unet

Make = Callable[..., Path]
REPOSITORY, COMMIT, OTHER = "org/tiny-ddpm", "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way to fetch into it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, folder: Path, commit: str = COMMIT, revision: str = "main") -> Path:
    """Copy a folder into a cache as huggingface_hub lays it out: blobs, links to them, and what a name points to."""
    home = cache / repo_folder_name(repo_id=REPOSITORY, repo_type="model")
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob, link = home / "blobs" / f"{commit}{number}", home / "snapshots" / commit / path.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(blob)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    return home / "snapshots" / commit


def test_a_cached_repository_is_read(cache: Path, make_folder: Make) -> None:
    folder = make_folder(unet=small_unet())
    snapshot = put(cache, folder)
    assert huggingface_hub.snapshot_download(REPOSITORY, local_files_only=True) == str(snapshot)  # it is their layout
    x = torch.randn(1, 3, 8, 8)
    priors, specs = [], []
    for path in (str(folder), f"hf:{REPOSITORY}", f"hf:{REPOSITORY}@main", f"hf:{REPOSITORY}@{COMMIT}", str(snapshot)):
        specs.append(prior_spec({"prior": "pixel", "path": path}))
        specs[-1].check()
        priors.append(specs[-1].load())
    assert len({spec.fingerprint() for spec in specs}) == 1
    answers = [prior.denoise(x, prior.schedule.level(500)) for prior in priors]
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_a_request_keeps_the_commit_that_it_was_checked_with(cache: Path, make_folder: Make) -> None:
    """What a name points to may differ between machines, and may move on before a worker reads it."""
    folder = make_folder(unet=small_unet())
    put(cache, folder)
    spec = prior_spec({"prior": "pixel", "path": f"hf:{REPOSITORY}"})
    assert describe(spec, "prior")["path"] == f"hf:{REPOSITORY}@{COMMIT}"
    before = spec.fingerprint()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    put(cache, folder, OTHER)
    assert spec.fingerprint() == before
    assert prior_spec({"prior": "pixel", "path": f"hf:{REPOSITORY}"}).fingerprint() != before


def test_what_is_not_cached_is_one_line_with_the_command_that_fetches_it(cache: Path) -> None:
    for revision in ("", "@v1.0"):
        with pytest.raises(RequestError, match="is not in the cache of huggingface_hub") as caught:
            load_prior({"prior": "pixel", "path": f"hf:{REPOSITORY}{revision}", "variant": "fp16"})
        line = str(caught.value)
        assert "\n" not in line
        words = shlex.split(line.split("fetch it with: ")[1])
        assert words[:3] == ["hf", "download", REPOSITORY]
        assert ("--revision" in words) == bool(revision)
        included = [word for word, before in zip(words[1:], words, strict=False) if before == "--include"]
        assert included == hub.patterns("fp16")


def test_a_repository_that_is_cached_in_part_names_the_command_too(cache: Path, make_folder: Make) -> None:
    folder = make_folder(unet=small_unet())
    (folder / "unet" / WEIGHTS).unlink()
    put(cache, folder)
    command = f"hf download {REPOSITORY} --revision {COMMIT} --include '*.json'"
    with pytest.raises(RequestError, match=rf"has no {WEIGHTS}; fetch it with: ") as caught:
        prior_spec({"prior": "pixel", "path": f"hf:{REPOSITORY}"}).check()
    assert command in str(caught.value)
    shutil.rmtree(cache)
    put(cache, folder / "unet")
    with pytest.raises(RequestError, match=r"has no scheduler/scheduler_config\.json; fetch it with: hf download"):
        load_prior({"prior": "pixel", "path": f"hf:{REPOSITORY}"})


@pytest.mark.parametrize(
    "path", ["hf:", "hf:name", "hf:a/b/c", "hf:../etc/passwd", "hf:a/b@../../x", "hf:a/b@", "hf:/a"]
)
def test_what_is_no_repository(cache: Path, path: str) -> None:
    with pytest.raises(RequestError, match="allowed: hf:ORG/NAME or hf:ORG/NAME@REVISION") as caught:
        load_prior({"prior": "pixel", "path": path})
    assert str(caught.value).startswith("prior.path: ")


def test_only_what_a_prior_reads_is_fetched() -> None:
    """The files of Stable Diffusion 1.5 and of a sharded model: no pickles, no code, no weights that nobody reads."""
    stem = "diffusion_pytorch_model"
    wanted = {
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json",
        "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json", f"vae/{stem}.safetensors",
        f"unet/{stem}.safetensors", f"unet/{stem}-00001-of-00002.safetensors", f"{stem}.safetensors",
        f"unet/{stem}.safetensors.index.json", "text_encoder_2/model-00001-of-00002.safetensors",
    }  # fmt: skip
    others = {
        "README.md", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", f"unet/{stem}.bin", f"unet/{stem}.fp16.safetensors",
        f"unet/{stem}.non_ema.safetensors", "safety_checker/model.safetensors", "pipeline.py", "requirements.txt",
    }  # fmt: skip
    assert set(filter_repo_objects([*wanted, *others], allow_patterns=hub.patterns())) == wanted
    half = {f"unet/{stem}.fp16.safetensors", f"unet/{stem}.fp16-00001-of-00002.safetensors",
            f"unet/{stem}-00001-of-00002.fp16.safetensors", "text_encoder/model.fp16.safetensors"}  # fmt: skip
    assert set(filter_repo_objects([*half, *others], allow_patterns=hub.patterns("fp16"))) == half

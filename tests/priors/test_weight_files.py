"""Which weights of a folder are read: those that an index names, those of one variant, and never two of one tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ipsolve.priors import load_prior, prior_spec
from ipsolve.priors.networks.diffusers_folder import fill
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import WEIGHTS, small_unet

Make = Callable[..., Path]
INDEX = f"{WEIGHTS}.index.json"


def bias(prior_folder: Path, **request: str) -> torch.Tensor:
    """Return a weight of the loaded prior, after the check of its request has passed."""
    config = {"prior": "pixel", "path": str(prior_folder), **request}
    prior_spec(config).check()
    loaded = load_prior(config).unet.conv_in.bias  # type: ignore[attr-defined]
    return torch.as_tensor(loaded)


def refused(prior_folder: Path, line: str, **request: str) -> None:
    config = {"prior": "pixel", "path": str(prior_folder), **request}
    for ask in (lambda: prior_spec(config).check(), lambda: load_prior(config)):
        with pytest.raises(RequestError, match=line) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.fixture
def sharded(make_folder: Make) -> Path:
    """A prior in several shards with their index, as diffusers writes them."""
    folder = make_folder(unet=small_unet())
    network = small_unet().from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    (folder / "unet" / WEIGHTS).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="20KB")
    assert (folder / "unet" / INDEX).is_file()
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 2
    return folder


def changed(path: Path, by: float, to: str) -> None:
    """Write a copy whose every number is larger by ``by``."""
    save_file({name: tensor + by for name, tensor in load_file(path).items()}, path.with_name(to))


def test_shards_are_read_by_their_index_alone(sharded: Path) -> None:
    expected = bias(sharded)
    first = sorted((sharded / "unet").glob("*-of-*.safetensors"))[0]
    before = prior_spec({"prior": "pixel", "path": str(sharded)}).fingerprint()
    changed(first, 1.0, "diffusion_pytorch_model-00001-of-00099.safetensors")  # of another save
    assert torch.equal(bias(sharded), expected)
    assert prior_spec({"prior": "pixel", "path": str(sharded)}).fingerprint() == before
    (sharded / "unet" / INDEX).unlink()
    refused(sharded, "-00001-of-00099.safetensors both hold .*: remove those that are not meant")


def test_shards_without_an_index_are_whole_or_refused(sharded: Path) -> None:
    expected = bias(sharded)
    (sharded / "unet" / INDEX).unlink()
    assert torch.equal(bias(sharded), expected)
    sorted((sharded / "unet").glob("*-of-*.safetensors"))[1].unlink()
    refused(sharded, r"lacks \d+ weights, the first being")


def test_a_single_file_beside_shards_is_refused(sharded: Path) -> None:
    shards = [load_file(path) for path in (sharded / "unet").glob("*-of-*.safetensors")]
    whole = sharded / "unet" / WEIGHTS
    save_file({name: tensor for shard in shards for name, tensor in shard.items()}, whole)
    refused(sharded, f"{INDEX} and {WEIGHTS}: only one of them can be meant")
    (sharded / "unet" / INDEX).unlink()
    refused(sharded, "both hold .*: remove those")


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    content = json.loads((folder / "unet" / INDEX).read_text())
    change(content["weight_map"])
    (folder / "unet" / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda shards: shards.update({"conv_in.bias": "../other.safetensors"}), "names '../other.safetensors', which"),
        (
            lambda shards: shards.update({"conv_in.bias": "gone.safetensors"}),
            "names gone.safetensors, which is not the",
        ),
        (lambda shards: shards.update({"of_nothing": shards["conv_in.bias"]}), "lacks of_nothing, that the index says"),
        (lambda shards: shards.pop("conv_in.bias"), "holds conv_in.bias, that the index does not say it has"),
        (lambda shards: shards.clear(), "names no weights"),
    ],
)
def test_an_index_that_is_wrong(sharded: Path, change: Callable[[dict[str, str]], object], line: str) -> None:
    edit_index(sharded, change)
    refused(sharded, line)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 3}'])
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / "unet" / INDEX).write_text(content)
    refused(sharded, "is not an index of weights")


def test_variants(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet())
    unet = folder / "unet"
    expected = bias(folder)
    changed(unet / WEIGHTS, 1.0, "diffusion_pytorch_model.non_ema.safetensors")
    changed(unet / WEIGHTS, 2.0, "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(bias(folder), expected)  # the files without a variant, where nobody asks for one
    assert torch.equal(bias(folder, variant="non_ema"), expected + 1)
    assert torch.equal(bias(folder, variant="fp16"), expected + 2)
    prints = {
        prior_spec({"prior": "pixel", "path": str(folder), **asked}).fingerprint()
        for asked in ({}, {"variant": "fp16"}, {"variant": "non_ema"})
    }
    assert len(prints) == 3
    refused(folder, r"prior\.variant: .* has no weights of the variant 'ema'; there: fp16, non_ema", variant="ema")
    (unet / WEIGHTS).unlink()
    refused(folder, r"prior\.variant: is required, .* has several: fp16, non_ema")
    (unet / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    assert torch.equal(bias(folder), expected + 2)  # the only one there is


@pytest.mark.parametrize("older", [False, True])
def test_shards_of_a_variant(sharded: Path, older: bool) -> None:
    """Both spellings that diffusers has had: NAME.VARIANT-00001-of-00002 and NAME-00001-of-00002.VARIANT."""
    expected = bias(sharded)
    unet = sharded / "unet"
    network = small_unet().from_pretrained(unet, low_cpu_mem_usage=False)
    network.conv_in.bias.data += 1
    network.save_pretrained(unet, max_shard_size="20KB", variant="fp16")
    if older:
        index = unet / f"{WEIGHTS}.index.fp16.json"
        text = index.read_text()
        for path in unet.glob("*.fp16-*-of-*.safetensors"):
            name = path.name.replace(".fp16-", "-").replace(".safetensors", ".fp16.safetensors")
            text = text.replace(path.name, name)
            path.rename(unet / name)
        index.write_text(text)
    assert torch.equal(bias(sharded), expected)
    assert torch.equal(bias(sharded, variant="fp16"), expected + 1)


def test_a_flat_folder_is_that_of_its_unet(make_folder: Make) -> None:
    """google/ddpm-* lie so: unet and scheduler at the top."""
    folder = make_folder(unet=small_unet())
    expected, scheduler = bias(folder), folder / "scheduler" / "scheduler_config.json"
    for path in [*(folder / "unet").iterdir(), scheduler]:
        path.rename(folder / path.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()
    assert torch.equal(bias(folder), expected)
    first = prior_spec({"prior": "pixel", "path": str(folder)}).fingerprint()
    changed(folder / WEIGHTS, 1.0, WEIGHTS)
    assert prior_spec({"prior": "pixel", "path": str(folder)}).fingerprint() != first


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("held", [["first.weight"], ["second.weight"], ["first.weight", "second.weight"]])
def test_of_tied_weights_one_is_enough(held: list[str]) -> None:
    weight = torch.randn(2, 2)
    with torch.device("meta"):
        module = Tied()
    fill(module, dict.fromkeys(held, weight), "tied")
    assert torch.equal(module.first.weight, weight)
    assert torch.equal(module.second.weight, weight)


def test_tied_weights_that_are_all_absent_are_lacking() -> None:
    with pytest.raises(RequestError, match=r"tied lacks 2 weights, the first being first\.weight"):
        fill(Tied(), {}, "tied")

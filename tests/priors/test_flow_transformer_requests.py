"""Folders of Stable Diffusion 3 and FLUX.1: what a request says of them, checked without weights, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipsolve.priors import PromptedPrior, load_prior, prior_spec
from ipsolve.priors.networks import diffusers_folder, text_encoders
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import edit
from tests.priors.flow_transformer_folders import SIZE, flux, request_of, sd3
from tests.priors.stable_diffusion_folders import LENGTH


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("saved")
    sd3(place / "sd3")
    flux(place / "dev")
    return {kind: place / kind for kind in ("sd3", "dev")}


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_a_request_is_checked_without_weights(
    saved: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = prior_spec(request_of(saved[kind], prompt="a face"))
    for module in (diffusers_folder, text_encoders):
        monkeypatch.setattr(module, "load_weights", lambda *_: pytest.fail("weights were loaded"))
    spec.check()
    spec.summary()
    spec.fingerprint()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sd3", {"prompt": "b"}),
        ("sd3", {"negative_prompt": "b"}),
        ("sd3", {"guidance_scale": 2.0}),
        ("dev", {"prompt": "b"}),
        ("dev", {"guidance_scale": 2.0}),
        ("dev", {"size": 2 * SIZE}),
        ("dev", {"max_sequence_length": 256}),
    ],
)
def test_what_is_asked_is_in_the_fingerprint(saved: dict[str, Path], kind: str, change: dict[str, Any]) -> None:
    folder = saved[kind]
    plain = prior_spec(request_of(folder)).fingerprint()
    assert prior_spec(request_of(folder, **change)).fingerprint() != plain
    assert prior_spec(request_of(folder, compile=True)).fingerprint() == plain


def state(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / file, **changes)


def without(component: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / component)


@pytest.mark.parametrize(
    ("kind", "damage", "line"),
    [
        ("sd3", without("text_encoder_3"), r"has no text_encoder_3/, which its model_index.json names"),
        ("sd3", without("text_encoder_2"), r"has no text_encoder_2/config\.json"),
        ("sd3", without("tokenizer_3"), r"has no tokenizer_3/tokenizer_config\.json"),
        ("sd3", state("text_encoder/config.json", architectures=["CLIPTextModel"]), "allowed: CLIPTextModelWithPro"),
        ("sd3", state("text_encoder_3/config.json", d_model=32), "joint_attention_dim is 48, T5 gives 32"),
        ("sd3", state("text_encoder/config.json", projection_dim=8), "pooled_projection_dim is 24, .* give 20"),
        (
            "sd3",
            state("text_encoder/config.json", hidden_size=64),
            "joint_attention_dim is 48, the CLIP enco.* give 88",
        ),
        ("sd3", state("tokenizer/tokenizer_config.json", model_max_length=8), "gives 8 tokens, tokenizer_2 16"),
        (
            "sd3",
            state("transformer/config.json", sample_size=16),
            "sample_size is 16; allowed: multiples of 2 up to 12",
        ),
        ("sd3", state("transformer/config.json", in_channels=16, out_channels=16), "transformer takes 16"),
        ("sd3", state("transformer/config.json", num_layers=1), "holds unexpected"),
        ("dev", without("text_encoder_2"), r"has no text_encoder_2/config\.json"),
        ("dev", state("text_encoder_2/config.json", d_model=32), "joint_attention_dim is 48, text_encoder_2 gives 32"),
        ("dev", state("transformer/config.json", pooled_projection_dim=8), "pooled_projection_dim is 8, text_encoder"),
        ("dev", state("transformer/config.json", in_channels=32), "out_channels 32|transformer takes 8"),
        ("dev", state("transformer/config.json", out_channels=32), "in_channels 16, out_channels 32, patch_size 1"),
        ("dev", state("transformer/config.json", axes_dims_rope=[4, 4]), r"axes_dims_rope \[4, 4\] are not 3 that"),
        ("dev", state("scheduler/scheduler_config.json", time_shift_type="cubic"), "'cubic'; allowed: exponential"),
        ("dev", state("scheduler/scheduler_config.json", max_image_seq_len=4), "max_image_seq_len 4; it must be below"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    saved: dict[str, Path], tmp_path: Path, kind: str, damage: Callable[[Path], None], line: str
) -> None:
    folder = tmp_path / kind
    shutil.copytree(saved[kind], folder)
    damage(folder)
    lines = []
    for ask in (lambda spec: spec.check(), lambda spec: spec.load()):
        with pytest.raises(RequestError, match=line) as caught:
            ask(prior_spec(request_of(folder)))
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]


def test_without_t5_where_the_folder_says_so(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "sd3"
    shutil.copytree(saved["sd3"], folder)
    without("text_encoder_3")(folder)
    index = json.loads((folder / "model_index.json").read_text())
    edit(folder / "model_index.json", **(index | {"text_encoder_3": [None, None]}))
    prior = load_prior(request_of(folder))
    assert isinstance(prior, PromptedPrior)
    assert prior.prompt.tokens.shape == (1, LENGTH + 256, 48)


@pytest.mark.parametrize(
    ("kind", "request_", "line"),
    [
        ("dev", {"negative_prompt": "b"}, r"prior\.negative_prompt: unknown key"),
        ("dev", {"size": 18}, r"prior\.size: must be a multiple of 4 \(got 18\)"),
        ("dev", {"max_sequence_length": 600}, r"prior\.max_sequence_length"),
        (
            "dev",
            {"max_sequence_length": 8, "prompt": "noisy noise"},
            r"prior\.prompt: is \d+ tokens long, text_encoder_2",
        ),
        ("sd3", {"prompt": "face " * LENGTH}, rf"prior\.prompt: is \d+ tokens long, text_encoder takes {LENGTH}"),
        ("dev", {"prior": "stable_diffusion"}, r"prior\.prior: .*dev is in the layout of FLUX; allowed: flux"),
        ("sd3", {"prior": "flux"}, "is a SD3Transformer2DModel; allowed: FluxTransformer2DModel"),
    ],
)
def test_a_wrong_request_is_one_line(saved: dict[str, Path], kind: str, request_: dict[str, Any], line: str) -> None:
    config = request_of(saved[kind], **request_)
    if config["prior"] == "stable_diffusion":
        config.pop("size", None)
    with pytest.raises(RequestError, match=line) as caught:
        prior_spec(config).check()
    assert "\n" not in str(caught.value)

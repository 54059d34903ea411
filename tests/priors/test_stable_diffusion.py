"""Folders of Stable Diffusion, saved by diffusers: the noise that its pipeline predicts, guidance and all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ipsolve.priors import Context, MeteredPrior, TextPrior, load_prior, prior_spec, prior_summary
from ipsolve.priors.networks.unet import Precision
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import edit
from tests.priors.stable_diffusion_folders import LENGTH, WIDTH, stable_diffusion, tokenizer

KINDS = ["1", "2", "xl"]
PROMPT, NEGATIVE = "a face", "noisy"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A folder and the pipeline that it was saved from, in float64, by kind."""
    place = tmp_path_factory.mktemp("saved")
    pipelines = {kind: stable_diffusion(kind, place / f"sd-{kind}") for kind in KINDS}
    return {kind: (place / f"sd-{kind}", pipeline.to(torch.float64)) for kind, pipeline in pipelines.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Stable Diffusion 1, to be damaged."""
    stable_diffusion("1", tmp_path / "sd")
    return tmp_path / "sd"


def prior_of(folder: Path, precision: Precision = "float32", **request: Any) -> TextPrior:
    config = {"prior": "stable_diffusion", "path": str(folder), **request}
    prior_spec(config).check()
    prior = load_prior(config, precision=precision)
    assert isinstance(prior, TextPrior)
    return prior


@torch.no_grad()
def by_pipeline(pipeline: Any, x: Tensor, time: int, prompt: list[str], negative: Any, scale: float) -> Tensor:
    """Return the output of the network as the pipeline of diffusers combines it, by its own encoding of the texts."""
    guided = scale != 1
    options: dict[str, Any] = {}
    rows = torch.cat([x, x]) if guided else x
    asked = {"negative_prompt": negative, "do_classifier_free_guidance": guided}
    if hasattr(pipeline, "text_encoder_2"):
        given, without, pooled, pooled_without = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, **asked
        )
        size = tuple(2 * side for side in x.shape[2:])
        ids = pipeline._get_add_time_ids(size, (0, 0), size, x.dtype, 12).repeat(len(rows), 1)
        added = torch.cat([pooled_without, pooled]) if guided else pooled
        options["added_cond_kwargs"] = {"text_embeds": added, "time_ids": ids}
    else:
        given, without = pipeline.encode_prompt(prompt, "cpu", 1, **asked)
    text = torch.cat([without, given]) if guided else given
    out = pipeline.unet(rows, time, encoder_hidden_states=text, **options).sample
    if not guided:
        return out
    first, second = out.chunk(2)
    return first + scale * (second - first)


@pytest.mark.parametrize("negative", [None, "", NEGATIVE])
@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_is_that_of_the_pipeline(saved: Any, kind: str, scale: float, negative: str | None) -> None:
    folder, pipeline = saved[kind]
    asked = {"prompt": PROMPT, "negative_prompt": negative, "guidance_scale": scale}
    prior = prior_of(folder, "float64", **asked)
    summary = prior_summary({"prior": "stable_diffusion", "path": str(folder)})
    assert (summary.image_shape, summary.traits) == (prior.image_shape, prior.traits)
    assert prior.traits >= {"latent", "text", "adaptable"}
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for time in (3, 500, 990):
        # a list, as of a batch, also of the negative: of one word alone the pipeline of SD 1 makes one row
        listed = None if negative is None else [negative] * 2
        out = by_pipeline(pipeline, x, time, [PROMPT] * 2, listed, scale)
        t = prior.schedule.level(time)
        denoised = prior.denoise(x, t)
        if kind == "2":
            torch.testing.assert_close(denoised, t.alpha * x - t.sigma * out, rtol=0, atol=1e-7)
        else:
            torch.testing.assert_close((x - t.alpha * denoised) / t.sigma, out, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["1", "xl"])
def test_images_have_prompts_of_their_own(saved: Any, kind: str) -> None:
    """Told one by one, together, or as particles: a row is its image's."""
    prior = prior_of(saved[kind][0], guidance_scale=4.0)
    prompts = ("a face", "noisy", "a face and no noise")
    t, x = prior.schedule.level(400), torch.randn(3, 4, 8, 8)
    told = prior.conditioned(Context(prompt=prompts, negative_prompt=("dark",)))
    together = told.denoise(x, t)
    for row, prompt in enumerate(prompts):
        alone = prior_of(saved[kind][0], prompt=prompt, negative_prompt="dark", guidance_scale=4.0)
        torch.testing.assert_close(together[row : row + 1], alone.denoise(x[row : row + 1], t), rtol=1e-5, atol=1e-4)
    particles = told.denoise(x.repeat_interleave(2, 0), t)
    torch.testing.assert_close(particles[::2], together, rtol=1e-5, atol=1e-4)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(told.select(rows).denoise(x[rows], t), together[rows], rtol=1e-5, atol=1e-4)
    assert not torch.allclose(together, prior.denoise(x, t), atol=1e-3)  # and the prior itself is told nothing
    with pytest.raises(ValueError, match="4 rows for a context of 3 images"):
        told.denoise(torch.randn(4, 4, 8, 8), t)
    with pytest.raises(TypeError, match="cannot be told a label"):
        prior.conditioned(Context(label=torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize("kind", ["1", "xl"])
@pytest.mark.parametrize("own", [None, "dark"])
def test_images_have_negative_prompts_of_their_own(saved: Any, kind: str, own: str | None) -> None:
    """None is the one of the prior, which for SDXL may be the embedding 0 and not a text."""
    prior = prior_of(saved[kind][0], guidance_scale=4.0, prompt=PROMPT, negative_prompt=own)
    negatives = (None, "noisy", "")
    t, x = prior.schedule.level(400), torch.randn(3, 4, 8, 8)
    told = prior.conditioned(Context(negative_prompt=negatives))
    together = told.denoise(x, t)
    for row, negative in enumerate(negatives):
        asked = own if negative is None else negative
        alone = prior_of(saved[kind][0], guidance_scale=4.0, prompt=PROMPT, negative_prompt=asked)
        torch.testing.assert_close(together[row : row + 1], alone.denoise(x[row : row + 1], t), rtol=1e-5, atol=1e-4)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(told.select(rows).denoise(x[rows], t), together[rows], rtol=1e-5, atol=1e-4)
    unchanged = prior.conditioned(Context(negative_prompt=(None, None, None)))
    torch.testing.assert_close(unchanged.denoise(x, t), prior.denoise(x, t), rtol=1e-5, atol=1e-4)


def test_a_guided_call_is_one_call(saved: Any) -> None:
    """Whatever rows it takes: so is the cost of a solver, which does not know of guidance."""
    prior = MeteredPrior(prior_of(saved["1"][0], guidance_scale=7.5), 3)
    told = prior.conditioned(Context(prompt=("a", "b", "c")))
    z = torch.randn(3, 4, 8, 8, requires_grad=True)
    told.select(torch.tensor([1, 2])).denoise(z[1:], prior.schedule.level(9)).sum().backward()
    told.denoise(z, prior.schedule.level(9))
    assert prior.counts["denoiser"].tolist() == [1, 2, 2]
    assert prior.counts["denoiser_backward"].tolist() == [0, 1, 1]
    assert told.traits == prior.traits >= {"text"}


def test_texts_are_encoded_once_and_the_encoders_let_go(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = prior_of(saved["1"][0], prompt=PROMPT)
    assert prior.texts._networks is None
    first = prior.conditioned(Context(prompt=("new", "new")))
    networks = prior.texts._networks
    assert networks is not None
    monkeypatch.setattr(prior.texts, "_encode", lambda texts: pytest.fail(f"encoded again: {texts}"))
    again = prior.conditioned(Context(prompt=("new", PROMPT)))
    assert torch.equal(again.prompt.tokens[0], first.prompt.tokens[1])
    assert torch.equal(again.prompt.tokens[1], prior.prompt.tokens[0])


def test_weights_of_an_image_change_no_others(saved: Any) -> None:
    prior = prior_of(saved["1"][0], prompt=PROMPT, guidance_scale=2.0)
    t, x = prior.schedule.level(400), torch.randn(1, 4, 8, 8)
    before = prior.denoise(x, t)
    assert not before.requires_grad
    metered = MeteredPrior(prior, 1)
    adapted = metered.adapted()
    assert metered.parameters() == []
    torch.testing.assert_close(adapted.denoise(x, t), before)
    loss = adapted.denoise(x, t).square().mean()
    optimiser = torch.optim.SGD(adapted.parameters(), lr=0.01)
    loss.backward()
    optimiser.step()
    assert adapted.denoise(x, t).square().mean() < loss
    assert torch.equal(prior.denoise(x, t), before)
    assert metered.counts["denoiser"].tolist() == [3]
    assert metered.counts["denoiser_backward"].tolist() == [1]


@pytest.mark.parametrize("change", [{"prompt": "b"}, {"negative_prompt": "b"}, {"guidance_scale": 2.0}])
def test_what_is_asked_is_in_the_fingerprint(saved: Any, change: dict[str, Any]) -> None:
    config = {"prior": "stable_diffusion", "path": str(saved["1"][0])}
    assert prior_spec(config).fingerprint() != prior_spec(config | change).fingerprint()
    assert prior_spec(config).fingerprint() == prior_spec(config | {"compile": True}).fingerprint()


def test_files_of_published_folders(folder: Path) -> None:
    """Names of older transformers: ``text_model.``, and positions among the weights; a half-precision variant."""
    x = torch.randn(1, 4, 8, 8)
    prior = prior_of(folder, prompt=PROMPT)
    expected = prior.denoise(x, prior.schedule.level(500))
    for component, stem in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        weights = load_file(folder / component / f"{stem}.safetensors")
        if component == "text_encoder":
            weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}
            weights["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
        save_file(weights, folder / component / f"{stem}.fp16.safetensors")
        (folder / component / f"{stem}.safetensors").unlink()
    old = prior_of(folder, prompt=PROMPT, variant="fp16")
    torch.testing.assert_close(old.denoise(x, old.schedule.level(500)), expected)


def lose(component: str, name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / component / "model.safetensors"
        save_file({key: value for key, value in load_file(path).items() if name not in key}, path)

    return damage


def transformer_instead(folder: Path) -> None:
    (folder / "unet").rename(folder / "transformer")
    edit(folder / "transformer" / "config.json", _class_name="PixArtTransformer2DModel")


def state(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / file, **changes)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lose("text_encoder", "final_layer_norm"),
            r"text_encoder lacks 2 weights, the first being .*final_layer_norm\.b",
        ),
        (lambda folder: (folder / "text_encoder" / "model.safetensors").unlink(), r"has no model\.safetensors"),
        (lambda folder: (folder / "text_encoder" / "config.json").unlink(), r"has no text_encoder/config\.json"),
        (lambda folder: (folder / "tokenizer" / "tokenizer_config.json").unlink(), "has no tokenizer/tokenizer_config"),
        (
            state("text_encoder/config.json", hidden_size=24),
            "has shape|cross_attention_dim is 16, the text encoders give 24",
        ),
        (
            state("text_encoder/config.json", architectures=["T5EncoderModel"]),
            "is a T5EncoderModel; allowed: CLIPTextModel",
        ),
        (
            state("tokenizer/tokenizer_config.json", model_max_length=77),
            f"gives 77 tokens, text_encoder takes {LENGTH}",
        ),
        (state("unet/config.json", _class_name="UNet2DModel"), "is a UNet2DModel; allowed: UNet2DConditionModel"),
        (state("unet/config.json", num_class_embeds=10), "num_class_embeds is 10: conditions beside a text"),
        (state("unet/config.json", time_cond_proj_dim=8), "time_cond_proj_dim is 8: conditions beside a text"),
        (state("unet/config.json", addition_embed_type="text_time"), r"'text_time' with 1 text encoder\(s\)"),
        (state("unet/config.json", in_channels=9), "out_channels is 4; allowed: 9 or 18"),
        (transformer_instead, r"has a transformer \(PixArtTransformer2DModel\); supported: a unet"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(folder: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(folder)
    lines = []
    for ask in (lambda spec: spec.check(), lambda spec: spec.load()):
        with pytest.raises(RequestError, match=line) as caught:
            ask(prior_spec({"prior": "stable_diffusion", "path": str(folder)}))
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]


def test_texts_that_would_be_cut_are_refused(saved: Any) -> None:
    folder, _ = saved["1"]
    for key in ("prompt", "negative_prompt"):
        with pytest.raises(RequestError, match=rf"prior\.{key}: is \d+ tokens long, text_encoder takes {LENGTH}"):
            prior_spec({"prior": "stable_diffusion", "path": str(folder), key: "face " * LENGTH}).check()
    prior = prior_of(folder)
    with pytest.raises(RequestError, match=r"the text 'face .*': is \d+ tokens long"):
        prior.conditioned(Context(prompt=("face " * LENGTH,)))


def test_another_prior_on_such_a_folder_says_which_is_meant(saved: Any) -> None:
    with pytest.raises(RequestError, match="UNet2DConditionModel; allowed: UNet2DModel"):
        prior_spec({"prior": "latent", "path": str(saved["1"][0])}).check()


def test_without_transformers_it_is_one_line(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for ask in (lambda spec: spec.check(), lambda spec: spec.load()):
        with pytest.raises(
            RequestError, match=r"needs transformers, which is not installed: pip install 'ipsolve\[text"
        ):
            ask(prior_spec({"prior": "stable_diffusion", "path": str(saved["1"][0])}))


def test_the_tokenizer_of_the_tests_knows_words(tmp_path: Path) -> None:
    """Or all texts would be the same, and the tests above could not fail."""
    words = tokenizer(tmp_path)
    assert len(words("a face").input_ids) == 4
    assert words("noisy").input_ids != words("noise").input_ids
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == LENGTH
    assert WIDTH % 2 == 0

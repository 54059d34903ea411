"""Folders of Stable Diffusion 3 and FLUX.1, saved by diffusers: the velocity that its pipeline steps by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import Context, FluxPrior, LatentPrior, TextPrior, load_prior, prior_spec, prior_summary
from ipsolve.priors.networks.unet import Precision
from ipsolve.problem import pose
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from tests.priors.flow_transformer_folders import DYNAMIC, SIZE, flux, request_of, sd3

PROMPT, NEGATIVE = "a face", "noisy"
KINDS: dict[str, Callable[[Path], Any]] = {
    "sd3": sd3,
    "sd3-without-t5": lambda folder: sd3(folder, with_t5=False),
    "sd3-dynamic": lambda folder: sd3(folder, **DYNAMIC),
    "dev": flux,
    "schnell": lambda folder: flux(folder, guidance_embeds=False, shift=1.0, use_dynamic_shifting=False),
    "linear": lambda folder: flux(folder, time_shift_type="linear"),
}
SD3, FLUX = list(KINDS)[:3], list(KINDS)[3:]
Saved = dict[str, tuple[Path, Any]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A folder and the pipeline that it was saved from, in float64, by kind."""
    place = tmp_path_factory.mktemp("saved")
    return {kind: (place / kind, make(place / kind).to(torch.float64)) for kind, make in KINDS.items()}


def prior_of(folder: Path, precision: Precision = "float64", **request: Any) -> LatentPrior:
    config = request_of(folder, **request)
    prior_spec(config).check()
    prior = load_prior(config, precision=precision)
    assert isinstance(prior, TextPrior if folder.name.startswith("sd3") else FluxPrior)
    return prior  # type: ignore[return-value]


def steps_of(pipeline: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> list[tuple[Tensor, ...]]:
    """Run a pipeline from latents x; return at each of its steps the velocity, the time and the latents."""
    packed = not hasattr(pipeline, "text_encoder_3")

    def unpacked(z: Tensor) -> Tensor:
        return pipeline._unpack_latents(z, SIZE, SIZE, pipeline.vae_scale_factor) if packed else z

    seen: list[tuple[Tensor, ...]] = []
    step = pipeline.scheduler.step

    def watched(out: Tensor, t: Tensor, z: Tensor, **options: Any) -> Any:
        seen.append((unpacked(out), t, unpacked(z)))
        return step(out, t, z, **options)

    monkeypatch.setattr(pipeline.scheduler, "step", watched)
    latents = pipeline._pack_latents(x, len(x), *x.shape[1:]) if packed else x
    pipeline(latents=latents, height=SIZE, width=SIZE, output_type="latent", num_inference_steps=3, **asked)
    monkeypatch.undo()
    return seen


def require_same_steps(prior: LatentPrior, seen: list[tuple[Tensor, ...]]) -> None:
    for velocity, time, z in seen:
        t = prior.schedule.level(float(time) / 1000)
        torch.testing.assert_close(prior.denoise(z, t), z - t.sigma * velocity, rtol=0, atol=1e-5)
        torch.testing.assert_close((z - prior.denoise(z, t)) / t.sigma, velocity, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("negative", [None, "", NEGATIVE])
@pytest.mark.parametrize("scale", [1.0, 7.0])
@pytest.mark.parametrize("kind", SD3)
def test_sd3_steps_as_its_pipeline(
    saved: Saved, kind: str, scale: float, negative: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipeline = saved[kind]
    prior = prior_of(folder, prompt=PROMPT, negative_prompt=negative, guidance_scale=scale)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    listed = None if negative is None else [negative] * 2
    asked = {"prompt": [PROMPT] * 2, "negative_prompt": listed, "guidance_scale": scale}
    require_same_steps(prior, steps_of(pipeline, x, monkeypatch, **asked))


@pytest.mark.parametrize("scale", [None, 1.0, 6.0])
@pytest.mark.parametrize("kind", FLUX)
def test_flux_steps_as_its_pipeline(
    saved: Saved, kind: str, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipeline = saved[kind]
    if kind == "schnell" and scale is not None:
        with pytest.raises(RequestError, match=r"prior\.guidance_scale: .* not distilled from guidance; allowed: null"):
            prior_of(folder, guidance_scale=scale)
        return
    prior = prior_of(folder, prompt=PROMPT, guidance_scale=scale)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    asked = {} if scale is None else {"guidance_scale": scale}
    require_same_steps(prior, steps_of(pipeline, x, monkeypatch, prompt=[PROMPT] * 2, **asked))


@pytest.mark.parametrize("kind", ["sd3-dynamic", *FLUX])
def test_levels_are_the_sigmas_of_the_pipeline(saved: Saved, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shift follows from the number of patches: of 16 here, of 4096 for images of 1024 pixels."""
    folder, pipeline = saved[kind]
    prior = prior_of(folder)
    sigmas = torch.tensor([1.0, 2 / 3, 1 / 3])  # what the pipeline of FLUX shifts, and SD3 can be told
    asked = {"sigmas": sigmas.tolist()} if kind in SD3 else {}
    steps_of(pipeline, torch.randn(1, 4, 8, 8, dtype=torch.float64), monkeypatch, prompt=PROMPT, **asked)
    ours = [level.sigma for level in prior.schedule.levels(3)]
    torch.testing.assert_close(torch.tensor(ours), pipeline.scheduler.sigmas, rtol=0, atol=1e-6)
    if kind != "schnell":
        assert abs(ours[1] - float(sigmas[1])) > 0.01
    if kind == "dev":
        wide = prior_summary(request_of(folder, size=2 * SIZE)).schedule
        assert wide is not None
        assert wide.levels(3)[1].sigma > ours[1] + 0.01


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_codes_are_those_of_the_pipeline(saved: Saved, kind: str) -> None:
    folder, pipeline = saved[kind]
    prior, config = prior_of(folder), pipeline.vae.config
    summary = prior_summary(request_of(folder))
    assert (summary.image_shape, summary.traits, summary.schedule) == (prior.image_shape, prior.traits, prior.schedule)
    assert prior.traits >= {"latent", "text", "flow", "adaptable"}
    assert ("negative_text" in prior.traits) == (kind == "sd3")
    assert (prior.image_shape, prior.latent_shape) == ((3, SIZE, SIZE), (4, SIZE // 2, SIZE // 2))
    z, x = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        images = pipeline.vae.decode(z / config.scaling_factor + config.shift_factor).sample
        codes = (pipeline.vae.encode(x).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(prior.decode(z), images, rtol=0, atol=1e-7)
    torch.testing.assert_close(prior.encode(x), codes, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_images_have_prompts_of_their_own(saved: Saved, kind: str) -> None:
    folder, _ = saved[kind]
    own = {"prompt": "own", "guidance_scale": 4.0} | ({"negative_prompt": "dark"} if kind == "sd3" else {})
    prior = prior_of(folder, **own)
    prompts, negatives = ("a face", None, "noisy"), (None, "b", "c")
    x, t = torch.randn(3, 4, 8, 8, dtype=torch.float64), prior.schedule.level(0.6)
    told = prior.conditioned(Context(prompt=prompts, negative_prompt=negatives if kind == "sd3" else None))
    together = told.denoise(x, t)
    for row in range(3):
        asked = {**own, "prompt": prompts[row] or "own"}
        if kind == "sd3":
            asked["negative_prompt"] = negatives[row] or "dark"
        alone = prior_of(folder, **asked).denoise(x[row : row + 1], t)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-6)
        assert (together[row] - prior.denoise(x, t)[row]).abs().max() > 1e-4 or prompts[row] is None
    torch.testing.assert_close(told.denoise(x.repeat_interleave(2, 0), t)[1::2], together, rtol=1e-6, atol=1e-6)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(told.select(rows).denoise(x[rows], t), together[rows], rtol=1e-6, atol=1e-6)
    if kind == "dev":
        with pytest.raises(TypeError, match="prior flux cannot be told a negative prompt"):
            prior.conditioned(Context(negative_prompt=("b",)))


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_solvers_precisions_gradients(saved: Saved, kind: str) -> None:
    folder, _ = saved[kind]
    # what bfloat16 can say: the transformer of FLUX has times and guidance of a thousand in it
    asked = {"prompt": PROMPT, "guidance_scale": 2.0}
    exact = prior_of(folder, **asked)
    assert exact.texts._networks is None  # type: ignore[attr-defined]
    x, t = torch.randn(1, 4, 8, 8), exact.schedule.level(0.5)
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.05)):
        prior = prior_of(folder, precision, **asked)  # type: ignore[arg-type]
        assert next(prior.unet.parameters()).dtype == getattr(torch, precision)
        out = prior.denoise(x, t)
        assert out.dtype == torch.float32
        expected = exact.denoise(x.double(), t)
        error = (out - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < tolerance
        assert precision == "float32" or error > 1e-4  # and it is in use
    solver = parse_solver({"solver": "latent_dps", "num_steps": 2})
    task = parse_task({"operator": "super_resolution", "factor": 2, "noise_std": 0.1})
    images = torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        problem = pose(task, images, exact, seed=0, image_ids=["a", "b"]).problem
    found = solver.solve(problem)
    assert isinstance(found, Tensor)
    assert bool(found.isfinite().all())
    assert found.shape[1:] == (3, SIZE, SIZE)
    assert prior.adapted().parameters()[0].dtype == torch.float32

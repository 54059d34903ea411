"""Folders of consistency models, saved by diffusers: one call of ours is one step of their samplers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, LCMScheduler, UNet2DModel

from ipsolve.priors import Edm, load_prior, prior_spec, prior_summary
from ipsolve.requests.errors import RequestError
from tests.priors.conftest import small_kl, small_unet

Make = Callable[..., Path]


def test_a_published_consistency_model(tmp_path: Path) -> None:
    theirs = CMStochasticIterativeScheduler(sigma_data=0.7, sigma_max=50.0, clip_denoised=False)
    ConsistencyModelPipeline(small_unet(), theirs).save_pretrained(tmp_path)
    request = {"prior": "consistency", "path": str(tmp_path)}
    prior_spec(request).check()
    prior: Any = load_prior(request, precision="float64")
    assert prior.schedule == Edm(sigma_max=50.0)
    assert {"consistency", "pixel"} < prior.traits == prior_summary(request).traits
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    theirs.set_timesteps(4)
    for time, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        given = theirs.scale_model_input(x, time)
        theirs._step_index = 0  # they take its sigma from the step, and the noise of the next is not wanted
        out = prior.unet(given, time.double()).sample
        c_skip, c_out = theirs.get_scalings_for_boundary_condition(sigma)
        ours = prior.denoise(x, prior.schedule.level(float(sigma)))
        torch.testing.assert_close(ours, c_out * out + c_skip * x, rtol=1e-5, atol=1e-5)  # their sigmas are float32
        theirs._step_index = None
    clean = prior.schedule.level(prior.schedule.sigma_min)
    torch.testing.assert_close(prior.denoise(x, clean), x)  # where it ends nothing is changed


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_distilled_table(make_folder: Make, prediction_type: str) -> None:
    theirs = LCMScheduler(prediction_type=prediction_type, timestep_scaling=0.1)
    folder = make_folder(unet=small_unet())
    theirs.save_pretrained(folder / "scheduler")
    prior: Any = load_prior({"prior": "consistency", "path": str(folder)}, precision="float64")
    assert "consistency" in prior.traits
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    theirs.set_timesteps(4)
    for time in theirs.timesteps:
        out = prior.unet(x, time.double()).sample
        theirs._step_index = None
        expected = theirs.step(out, time, x).denoised
        torch.testing.assert_close(prior.denoise(x, prior.schedule.level(float(time))), expected, rtol=1e-5, atol=1e-5)
    first = prior.schedule.level(0)
    torch.testing.assert_close(prior.denoise(x, first), x)


def test_of_latents(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet(), vae=small_kl())
    LCMScheduler().save_pretrained(folder / "scheduler")
    request = {"prior": "consistency", "path": str(folder)}
    prior_spec(request).check()
    assert {"consistency", "latent"} < load_prior(request).traits == prior_summary(request).traits


def test_a_diffusion_model_is_refused(make_folder: Make) -> None:
    folder = make_folder(unet=small_unet())
    with pytest.raises(RequestError, match=r"is no consistency model .*; allowed: prior: pixel$") as caught:
        prior_spec({"prior": "consistency", "path": str(folder)}).check()
    assert str(caught.value).startswith("prior.path: ")


def test_of_a_class(tmp_path: Path) -> None:
    config = {key: value for key, value in small_unet().config.items() if not key.startswith("_")}
    unet = UNet2DModel(**{**config, "num_class_embeds": 5})
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(tmp_path)
    request = {"prior": "consistency", "path": str(tmp_path)}
    with pytest.raises(RequestError, match=r"prior\.label: is required, .* allowed: 0 to 4"):
        prior_spec(request).check()
    prior_spec({**request, "label": 3}).check()
    x = torch.randn(2, 3, 8, 8)
    t = Edm().level(1.3)
    found = [load_prior({**request, "label": label}).denoise(x, t) for label in (3, 3, 4)]
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert prior_spec({**request, "label": 3}).fingerprint() != prior_spec({**request, "label": 4}).fingerprint()

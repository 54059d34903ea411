"""Schedulers of diffusers, written by diffusers itself: the same table, and the same x_0 from the same network."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ipsolve.priors import DiscreteSchedule, Edm, FlowMatching, load_prior, prior_spec, prior_summary
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.networks.pixel import PixelPrior
from ipsolve.priors.networks.prediction import V, Velocity
from ipsolve.priors.networks.schedulers import SCHEDULERS, load_schedule
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in
from tests.priors.conftest import small_unet

Make = Callable[..., Path]
TABLES = [name for name in SCHEDULERS if not name.startswith(("EDM", "Flow", "CM", "LCM"))]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "stable_diffusion": SD,
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
    "trained": {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    "v": {"prediction_type": "v_prediction"},
}


def written(scheduler: Any, folder: Path) -> Path:
    """Return a folder with ``scheduler/`` as diffusers writes it."""
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of numpy 2
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_diffusers(name: str, config: str, tmp_path: Path) -> None:
    theirs = getattr(diffusers, name).from_config(CONFIGS[config])  # without the keys that it does not have
    schedule, prediction = load_schedule(written(theirs, tmp_path))
    assert isinstance(schedule, DiscreteSchedule)
    # they multiply 1000 factors in float32
    assert np.allclose(schedule.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=1e-4, atol=0)
    assert isinstance(prediction, V) == (config == "v")
    if hasattr(theirs, "final_alpha_cumprod"):
        assert schedule.end_clean == (theirs.final_alpha_cumprod == 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_absent_keys_are_the_defaults_of_the_class(name: str, tmp_path: Path) -> None:
    whole = load_schedule(written(getattr(diffusers, name)(), tmp_path))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    assert load_schedule(tmp_path) == whole


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_zero_terminal_snr(name: str, tmp_path: Path) -> None:
    theirs = getattr(diffusers, name)(**SD, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule, _ = load_schedule(written(theirs, tmp_path))
    assert isinstance(schedule, DiscreteSchedule)
    # float32 near 0: the smallest entries are differences of the largest
    assert np.allclose(schedule.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=1e-3, atol=1e-9)
    last = schedule.level(999)
    assert last.alpha**2 == pytest.approx(float(theirs.alphas_cumprod[-1]), rel=1e-6, abs=1e-14)
    assert last.alpha**2 + last.sigma**2 == pytest.approx(1)
    assert schedule.at_ratio(last.ratio) == pytest.approx(last)
    assert schedule.level(998.5).alpha < schedule.level(998).alpha


def test_zero_terminal_snr_of_a_network(make_folder: Make) -> None:
    """Where alpha is 0, v = -x_0: the estimate is the network's, and finite."""
    folder = make_folder({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, unet=small_unet())
    prior = load_prior({"prior": "pixel", "path": str(folder)})
    x = torch.randn(2, 3, 8, 8)
    t = prior.schedule.level(999)
    assert t[1:] == (0, 1)
    torch.testing.assert_close(prior.denoise(x, t), -prior.unet(x, 999).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_preconditioning_is_that_of_diffusers(make_folder: Make, name: str, prediction_type: str) -> None:
    theirs = getattr(diffusers, name)(sigma_data=0.7, sigma_max=50.0, prediction_type=prediction_type)
    folder = make_folder(unet=small_unet())
    written(theirs, folder)
    prior = load_prior({"prior": "pixel", "path": str(folder)})
    assert prior.schedule == Edm(sigma_max=50.0)
    x = torch.randn(2, 3, 8, 8)
    for sigma in (0.01, 1.3, 49.0):
        out = prior.unet(theirs.precondition_inputs(x, sigma), theirs.precondition_noise(sigma)).sample
        expected = theirs.precondition_outputs(x, out, sigma)
        torch.testing.assert_close(prior.denoise(x, prior.schedule.level(sigma)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_walks_the_steps_of_diffusers(make_folder: Make, shift: float) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    folder = make_folder(unet=small_unet())
    written(theirs, folder)
    prior = load_prior({"prior": "pixel", "path": str(folder)}, precision="float64")
    assert prior.schedule == FlowMatching(shift)
    assert "flow" in prior.traits
    assert prior_summary({"prior": "pixel", "path": str(folder)}).traits == prior.traits
    theirs.set_timesteps(8)
    ours = x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    levels = [prior.schedule.level(float(sigma)) for sigma in theirs.sigmas]  # their grid: even before it is shifted
    for time, (t, s) in zip(theirs.timesteps, pairwise(levels), strict=True):
        x = theirs.step(prior.unet(x, time.double()).sample, time, x).prev_sample
        x_0 = prior.denoise(ours, t)
        ours = ddim_step(x_0, noise_in(ours, x_0, t), t, s)
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)  # their sigmas are float32


class VelocityOfMixture(nn.Module):
    """The flow network that knows a mixture: E[eps - x_0 | x_t], told times of 1000."""

    config = SimpleNamespace(in_channels=3, out_channels=3, sample_size=4)

    def __init__(self, prior: MixturePrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, time: Tensor, return_dict: bool) -> tuple[Tensor]:
        t = FlowMatching().level(float(time[0]) / 1000)
        return ((x - self.prior.denoise(x, t)) / t.sigma,)


def test_a_flow_network_of_a_mixture_is_the_mixture() -> None:
    means = torch.randn(3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = MixturePrior(GaussianMixture.isotropic(torch.ones(3), means, 0.3), (3, 4, 4), FlowMatching())
    network: Any = VelocityOfMixture(exact)
    network.config = vars(network.config)
    prior = PixelPrior(network, exact.schedule, Velocity())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for t in prior.schedule.levels(5):
        torch.testing.assert_close(prior.denoise(x, t), exact.denoise(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"_class_name": "TCDScheduler"}, "_class_name 'TCDScheduler'; allowed: CMStochasticIterativeScheduler, "),
        ({"_class_name": ["DDIM"]}, "_class_name \\['DDIM'\\]; allowed"),
        ({"trained_betas": [0.1, float("nan")]}, "trained_betas must be a list of two or more numbers, each above 0"),
        ({"trained_betas": [0.1, 1.0]}, "trained_betas must be"),
        ({"trained_betas": [0.0, 0.1]}, "trained_betas must be"),
        ({"trained_betas": "many"}, "trained_betas must be"),
        ({"trained_betas": [[0.1, 0.1]]}, "trained_betas must be"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 1000}, "are 2 numbers, num_train_timesteps is 1000"),
        ({"beta_start": "0.1"}, "beta_start is '0.1'; it must be a number above 0 and below 1"),
        ({"beta_end": float("inf")}, "beta_end is inf"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1; it must be a number from 2 to 1e\\+06"),
        ({"rescale_betas_zero_snr": True}, "with prediction_type 'epsilon': pure noise says nothing"),
        ({"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True}, "is not a key of PNDMScheduler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "'continuous' is not supported"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "sigma_min is 90, sigma_max 80"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "'sample'; allowed: epsilon, v_prediction"),
        ({"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 90}, "sigma_min is 90, sigma_max 80"),
        ({"_class_name": "LCMScheduler", "timestep_scaling": 0}, "timestep_scaling is 0"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1}, "shift is -1"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "use_dynamic_shifting is not",
        ),
    ],
)
def test_what_is_not_supported_is_one_line(make_folder: Make, config: dict[str, Any], line: str) -> None:
    folder = make_folder(unet=small_unet())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **config}))
    with pytest.raises(RequestError, match=line) as caught:
        prior_spec({"prior": "pixel", "path": str(folder)}).check()
    assert str(caught.value).startswith(f"prior.path: {folder / 'scheduler' / 'scheduler_config.json'}: ")
    assert "\n" not in str(caught.value)

"""A network that was trained on one schedule, read at the levels of another: the same denoiser, exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ipsolve.priors import (
    Edm,
    FlowMatching,
    Level,
    Prior,
    Schedule,
    load_prior,
    prior_spec,
    prior_summary,
    scaled_linear,
)
from ipsolve.priors.networks.latent import LatentPrior
from ipsolve.priors.networks.prediction import Epsilon, OnSchedule, Prediction, Sample, V, Velocity
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in
from tests.priors.conftest import BUILTIN

FLOW = {"prior": "latent", "path": "builtin:portraits-64-flow"}
SCHEDULES: dict[str, Schedule] = {"vp": scaled_linear(0.00085, 0.012), "ve": Edm(), "flow": FlowMatching(3.0)}
MEAN, VARIANCE = 0.4, 0.6
RATIOS = (0.05, 0.7, 3.0, 12.0)


def exact(x_t: Tensor, t: Level) -> Tensor:
    """E[x_0 | x_t] of x_0 ~ N(0.4, 0.6)."""
    return MEAN + t.alpha * VARIANCE / (t.alpha**2 * VARIANCE + t.sigma**2) * (x_t - t.alpha * MEAN)


class Gaussian(nn.Module):
    """What a network trained on one schedule says of N(0.4, 0.6), told the time and nothing else."""

    def __init__(self, schedule: Schedule, kind: str) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, x: Tensor, time: Tensor, return_dict: bool) -> tuple[Tensor]:
        t = self.schedule.level(float(time[0]) / (1000 if self.kind == "velocity" else 1))
        x_0 = exact(x, t)
        eps = (x - t.alpha * x_0) / t.sigma
        outputs = {"epsilon": eps, "sample": x_0, "v": t.alpha * eps - t.sigma * x_0, "velocity": eps - x_0}
        return (outputs[self.kind],)


KINDS: dict[str, Prediction] = {"epsilon": Epsilon(), "sample": Sample(), "v": V(), "velocity": Velocity()}
OF = {"epsilon": ("vp", "ve", "flow"), "sample": ("vp", "ve", "flow"), "v": ("vp",), "velocity": ("flow",)}


@pytest.mark.parametrize(
    ("kind", "trained", "seen"),
    [(kind, trained, seen) for kind, on in OF.items() for trained, seen in itertools.product(on, SCHEDULES)],
)
def test_the_estimate_is_the_exact_one_whatever_the_two_schedules(kind: str, trained: str, seen: str) -> None:
    network = Gaussian(SCHEDULES[trained], kind)
    prediction = OnSchedule(KINDS[kind], SCHEDULES[trained])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    for ratio in RATIOS:
        t = SCHEDULES[seen].at_ratio(ratio)
        x_t = t.alpha * x + t.sigma
        time = torch.full((5,), prediction.time(t), dtype=torch.float64)
        out = network(prediction.inputs(x_t, t), time, return_dict=False)[0]
        assert torch.allclose(prediction.clean(x_t, out, t), exact(x_t, t), rtol=0, atol=1e-9)


def test_beyond_the_ends_a_state_has_the_size_that_the_network_knows() -> None:
    own = scaled_linear(0.00085, 0.012)
    prediction, noise = OnSchedule(Epsilon(), own), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    noisiest, cleanest = own.level(999), own.level(0)
    assert torch.allclose(prediction.inputs(noise, Level(1.0, 0.0, 1.0)), noisiest.sigma * noise)
    assert torch.allclose(prediction.inputs(noise, Level(0.001, 0.999, 0.001)), cleanest.alpha / 0.999 * noise)


@pytest.fixture(scope="module")
def both() -> tuple[Prior, Prior]:
    return load_prior(BUILTIN, precision="float64"), load_prior(FLOW, precision="float64")


def test_the_built_in_flow_is_the_shipped_network(both: tuple[Prior, Prior]) -> None:
    own, flow = both
    assert isinstance(flow, LatentPrior)
    assert {"flow", "latent"} <= flow.traits
    assert "flow" not in own.traits
    # a flow that starts where the network does: it was never shown more noise
    assert isinstance(flow.schedule, FlowMatching)
    assert flow.schedule.levels(3)[0].ratio == pytest.approx(own.schedule.level(999).ratio, rel=1e-12)
    draws = torch.Generator().manual_seed(0)
    for time in (1.0, 300.0, 777.5, 999.0):
        t = own.schedule.level(time)
        u = flow.schedule.at_ratio(t.ratio)
        x = torch.randn(2, *own.latent_shape, generator=draws, dtype=torch.float64)
        assert torch.allclose(flow.denoise(x, u), own.denoise((t.alpha + t.sigma) * x, t), rtol=0, atol=1e-10)


def test_eulers_rule_on_the_flow_is_ddim_on_the_network(both: tuple[Prior, Prior]) -> None:
    own, flow = both
    t, s = own.schedule.level(600), own.schedule.level(500)
    u, v = (flow.schedule.at_ratio(level.ratio) for level in (t, s))
    x = torch.randn(1, *own.latent_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    velocity = noise_in(x, flow.denoise(x, u), u) - flow.denoise(x, u)
    z = (t.alpha + t.sigma) * x
    clean = own.denoise(z, t)
    theirs = ddim_step(clean, noise_in(z, clean, t), t, s) / (s.alpha + s.sigma)
    assert torch.allclose(x + (v.time - u.time) * velocity, theirs, rtol=0, atol=1e-10)


def test_a_plan_knows_the_flow_and_tells_it_from_the_network_it_shares() -> None:
    summary = prior_summary(FLOW)
    assert summary.latent
    assert "flow" in summary.abilities
    prior_spec(FLOW).check()
    assert prior_spec(FLOW).fingerprint() != prior_spec(BUILTIN).fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schedule": "flow_matching", "prediction_type": "eps"}, "allowed: epsilon, v_prediction, sample, velocity"),
        ({"schedule": "linear", "prediction_type": "velocity"}, "of networks trained on schedule: flow_matching"),
        (
            {"schedule": "flow_matching", "prediction_type": "epsilon", "trained_on": {"schedule": "linaer"}},
            "did you mean 'linear'",
        ),
        ({"schedule": "flow_matching", "prediction_type": "epsilon", "trained_on": 3}, "schedule"),
    ],
)
def test_wrong_files_are_refused_in_one_line(content: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"scheduler_config\.json") as error:
        load_schedule(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flow_that_starts_late_starts_at_the_noisiest_level_of_the_network() -> None:
    late = FlowMatching(shift=1.5, start=0.9)
    assert late.levels(4)[0] == Level(0.9, pytest.approx(0.1), 0.9)  # type: ignore[comparison-overlap]
    assert late.levels(4)[-1].time == 0
    whole = FlowMatching(shift=1.5)
    assert [t.time for t in late.levels(4)] == pytest.approx([0.9 * t.time for t in whole.levels(4)])
    assert late.at_ratio(1e6).time == late.at_ratio(float("inf")).time == 0.9
    assert late.at_ratio(0.5) == whole.at_ratio(0.5)

"""A prior seen as a flow, or as variance preserving, is the same prior: exactly, and there and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.priors import Edm, FlowMatching, Level, MeteredPrior, Prior, Schedule, linear, scaled_linear
from ipsolve.priors.coordinates import as_flow, as_variance_preserving
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import mcgdiff, zero_terminal_snr
from ipsolve.priors.sde_schedules import GeometricVe, VpSde

SCHEDULES: dict[str, Schedule] = {
    "vp": linear(),
    "ldm": scaled_linear(0.0015, 0.0195),
    "zero_snr": zero_terminal_snr(linear(steps_offset=99)),
    "mcgdiff": mcgdiff(),
    "vp_sde": VpSde(),
    "ve": Edm(),
    "geometric_ve": GeometricVe(0.02, 100.0),
    "flow": FlowMatching(shift=3.0),
}
VIEWS = {"flow": as_flow, "vp": as_variance_preserving}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
every_view = pytest.mark.parametrize("view", VIEWS)


def prior_on(schedule: Schedule) -> MixturePrior:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return MixturePrior(GaussianMixture.isotropic(torch.ones(3), means, 0.3), (4,), schedule)


def states(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sum_of(view: str, t: Level) -> float:
    return t.alpha + t.sigma if view == "flow" else t.alpha**2 + t.sigma**2


@every_schedule
@every_view
def test_levels_are_of_the_kind_and_at_the_same_noise(schedule: Schedule, view: str) -> None:
    seen = VIEWS[view](prior_on(schedule)).schedule
    for own, t in zip(schedule.levels(10), seen.levels(10), strict=True):
        assert t.time == own.time
        assert sum_of(view, t) == pytest.approx(1, abs=1e-12)
        assert t.alpha * own.sigma == pytest.approx(t.sigma * own.alpha, abs=1e-12)
        assert seen.level(t.time) == t
    assert seen.at_ratio(0.7).ratio == pytest.approx(0.7, rel=1e-9)


@every_schedule
@every_view
def test_the_estimate_is_that_of_the_mixture_at_the_level_of_the_view(schedule: Schedule, view: str) -> None:
    """The mixture is asked in the coordinates of the view themselves: no factor may be forgotten."""
    prior = prior_on(schedule)
    seen = VIEWS[view](prior)
    for t in seen.schedule.levels(10)[:-1]:
        exact = prior.mixture.denoise(states(), t.alpha, t.sigma)
        torch.testing.assert_close(seen.denoise(states(), t), exact, rtol=0, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("way", [(as_flow, as_variance_preserving), (as_variance_preserving, as_flow)])
def test_there_and_back(schedule: Schedule, way: tuple[object, object]) -> None:
    """The second view of a prior does not depend on whether it was seen otherwise before."""
    first, second = way
    prior = prior_on(schedule)
    direct, around = second(prior), second(first(prior))  # type: ignore[operator]
    for t, u in zip(direct.schedule.levels(10)[:-1], around.schedule.levels(10)[:-1], strict=True):
        assert t == pytest.approx(u, abs=1e-12)
        torch.testing.assert_close(direct.denoise(states(), t), around.denoise(states(), u), rtol=0, atol=1e-9)


def test_a_flow_is_a_flow_already() -> None:
    prior = prior_on(FlowMatching())
    assert as_flow(prior) is prior


def test_calls_are_on_the_account_of_the_images() -> None:
    metered = MeteredPrior(prior_on(linear()), 3)
    seen: Prior = as_flow(metered)
    seen.denoise(states(3), seen.schedule.levels(4)[0])
    seen.select(torch.tensor([1])).denoise(states(1), seen.schedule.levels(4)[0])
    assert metered.counts["denoiser"].tolist() == [1, 2, 1]
    assert seen.traits == metered.traits

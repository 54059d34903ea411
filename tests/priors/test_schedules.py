import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ipsolve.errors import RequestError
from ipsolve.priors import DiscreteSchedule, Edm, FlowMatching, Schedule, cosine, linear, scaled_linear

LDM = scaled_linear(0.0015, 0.0195)
SCHEDULES = {
    "ldm": LDM,
    "portraits": scaled_linear(0.00085, 0.012),
    "ddpm": linear(),
    "cosine": cosine(),
    "edm": Edm(),
    "flow": FlowMatching(),
    "flow_shifted": FlowMatching(shift=3.0),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_levels_go_down_in_noise(schedule: Schedule, num_steps: int) -> None:
    levels = schedule.levels(num_steps)
    assert len(levels) == num_steps + 1
    ratios = [level.ratio for level in levels]
    assert all(a > b for a, b in pairwise(ratios))
    assert all(a.sigma > b.sigma and a.alpha <= b.alpha for a, b in pairwise(levels))


@every_schedule
def test_at_ratio_inverts_ratio(schedule: Schedule) -> None:
    times = np.linspace(*((0.002, 80.0) if isinstance(schedule, Edm) else (0.0, 0.999)), 57)
    if isinstance(schedule, DiscreteSchedule):
        times = times * 1000  # between two entries of the table too
    for time in times:
        level = schedule.level(float(time))
        found = schedule.at_ratio(level.ratio)
        assert found.time == pytest.approx(level.time, rel=1e-9, abs=1e-9)
        assert found.ratio == pytest.approx(level.ratio, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("schedule", [LDM, Edm(), cosine()])
def test_at_ratio_is_clipped_to_the_range(schedule: Schedule) -> None:
    cleanest, noisiest = (0.002, 80.0) if isinstance(schedule, Edm) else (0, 999)
    assert schedule.at_ratio(1e9).time == noisiest
    assert schedule.at_ratio(0.0).time == cleanest


def test_pure_noise_of_flow_matching() -> None:
    start = FlowMatching().levels(4)[0]
    assert (start.time, start.alpha, start.sigma) == (1.0, 0.0, 1.0)
    assert start.ratio == math.inf
    assert FlowMatching().at_ratio(math.inf) == start


def test_variance_is_preserved() -> None:
    for level in LDM.levels(50):
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14)


def test_the_grid_of_the_compvis_sampler() -> None:
    levels = LDM.levels(500)
    assert [level.time for level in levels] == [*range(999, 0, -2), 0]
    assert levels[-1].alpha ** 2 == pytest.approx(LDM.alphas_cumprod[0], rel=1e-12)


def test_published_figures_of_ldm_vq4() -> None:
    assert LDM.alphas_cumprod[0] == pytest.approx(0.9985)
    assert LDM.alphas_cumprod[999] == pytest.approx(1.423e-4, rel=1e-3)
    assert LDM.level(999).ratio == pytest.approx(83.8, rel=1e-3)


def test_edm_grid() -> None:
    sigmas = [level.sigma for level in Edm().levels(18)]
    assert (sigmas[0], sigmas[17], sigmas[18]) == (pytest.approx(80), pytest.approx(0.002), 0)
    roots = np.asarray(sigmas[:18]) ** (1 / 7)
    assert np.allclose(np.diff(roots), roots[1] - roots[0])


@pytest.mark.parametrize("num_steps", [1, 10, 50, 100, 500, 1000])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(("offset", "end_clean"), [(1, False), (0, True)])
def test_agreement_with_diffusers(name: str, num_steps: int, offset: int, end_clean: bool) -> None:
    theirs = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule=name, steps_offset=offset, set_alpha_to_one=end_clean
    )
    make = {"linear": linear, "scaled_linear": scaled_linear}.get(name)
    ours = make(0.0015, 0.0195, 1000, offset, end_clean) if make else cosine(1000, offset, end_clean)
    # they multiply 1000 factors in float32
    assert np.allclose(ours.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=1e-4, atol=0)
    if num_steps == 1000 and offset == 1:
        return  # their grid runs to time 1000 there, which does not exist
    theirs.set_timesteps(num_steps)
    levels = ours.levels(num_steps)
    assert [level.time for level in levels[:-1]] == theirs.timesteps.tolist()
    assert levels[-1].alpha ** 2 == pytest.approx(float(theirs.final_alpha_cumprod), rel=1e-6)


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_step_counts(num_steps: int) -> None:
    with pytest.raises(RequestError, match=r"num_steps=.*allowed: 1 to 1000"):
        LDM.levels(num_steps)


def test_fractional_times_lie_between() -> None:
    low, mid, high = (LDM.level(t) for t in (500, 500.25, 501))
    assert low.ratio < mid.ratio < high.ratio
    assert math.log(mid.ratio) == pytest.approx(0.75 * math.log(low.ratio) + 0.25 * math.log(high.ratio))
    assert torch.tensor(mid.time).item() == 500.25

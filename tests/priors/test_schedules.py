import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ipsolve.priors import DiscreteSchedule, Edm, FlowMatching, Schedule, cosine, linear, scaled_linear
from ipsolve.priors.schedule_spec import SCHEDULES as NAMED
from ipsolve.priors.schedule_spec import load_schedule
from ipsolve.priors.schedules import Spacing, mcgdiff
from ipsolve.requests.errors import RequestError

LDM = scaled_linear(0.0015, 0.0195)
SCHEDULES = {
    "ldm": LDM,
    "portraits": scaled_linear(0.00085, 0.012),
    "ddpm": linear(),
    "cosine": cosine(),
    "mcgdiff": mcgdiff(),
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


@pytest.mark.parametrize("schedule", [linear(), scaled_linear(0.0015, 0.0195), Edm(), FlowMatching()])
def test_thousandths_are_the_levels_of_a_thousand_steps(schedule: Schedule) -> None:
    *levels, _ = schedule.levels(1000)
    for index in (1, 2, 400, 1000):
        assert schedule.thousandth(index) == levels[1000 - index]


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


@pytest.mark.parametrize("num_steps", [1, 7, 50, 100, 300, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_are_those_of_diffusers(spacing: Spacing, num_steps: int) -> None:
    """But for leading where S does not divide N: theirs steps by floor(N / S) and leaves more of the noisy end out."""
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    theirs.set_timesteps(num_steps)
    times = [level.time for level in linear().levels(num_steps, spacing)[:-1]]
    if spacing != "leading" or 1000 % num_steps == 0:
        assert times == theirs.timesteps.tolist()
    assert times == sorted(set(times), reverse=True)
    assert (times[0] == 999) == (spacing != "leading" or num_steps == 1000) or num_steps == 1
    assert linear().levels(num_steps) == linear().levels(num_steps, "leading")


def test_even_spacing_has_both_ends_and_a_clean_one_behind() -> None:
    """999..0, as guided-diffusion respaces, also on a table whose sampling ends at entry 0."""
    for schedule in (linear(), LDM):
        levels = schedule.levels(100, "linspace")
        assert (levels[0].time, levels[-2].time, levels[-1].sigma) == (999, 0, 0)


@pytest.mark.parametrize("schedule", [Edm(), FlowMatching(), mcgdiff()])
def test_schedules_without_a_table_of_times_have_their_own_spacing(schedule: Schedule) -> None:
    with pytest.raises(RequestError, match=r"timestep_spacing=trailing is of .*; allowed: null$"):
        schedule.levels(10, "trailing")


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_step_counts(num_steps: int) -> None:
    with pytest.raises(RequestError, match=r"num_steps=.*allowed: 1 to 1000"):
        LDM.levels(num_steps)


def test_fractional_times_lie_between() -> None:
    low, mid, high = (LDM.level(t) for t in (500, 500.25, 501))
    assert low.ratio < mid.ratio < high.ratio
    assert math.log(mid.ratio) == pytest.approx(0.75 * math.log(low.ratio) + 0.25 * math.log(high.ratio))
    assert torch.tensor(mid.time).item() == 500.25


def test_the_table_of_the_mcgdiff_experiment() -> None:
    """DDPM's betas from large to small behind a clean entry 0."""
    table = mcgdiff().alphas_cumprod
    assert len(table) == 1000
    assert table[:2] == (1.0, pytest.approx(1 - 0.02))
    assert table[999] / table[998] == pytest.approx(1 - 1e-4)
    assert table[999] == pytest.approx(float(np.prod(1 - np.linspace(1e-4, 0.02, 999))))


def test_the_grid_of_the_mcgdiff_experiment() -> None:
    """100 levels as the authors' script makes them: 79 below alpha = 1/100, the rest evenly above."""
    schedule = mcgdiff()
    times = [int(level.time) for level in reversed(schedule.levels(99))]
    assert times[:5] == [0, 2, 4, 6, 8]
    alphas = np.sqrt(schedule.alphas_cumprod)
    end = int(np.argmax(alphas < 0.01))
    assert end == 704
    kept, rest = times[:79], times[78:]
    falls = -np.diff(alphas[kept])
    assert falls.min() >= (1 - alphas[end]) / 98
    # an entry earlier the fall would have been too small
    earlier = alphas[kept[:-1]] - alphas[np.asarray(kept[1:]) - 1]
    assert earlier.max() < (1 - alphas[end]) / 98
    assert set(np.diff(rest)) <= {16, 17}
    assert rest[-1] == 999


def test_a_clean_entry_is_exactly_clean() -> None:
    end = mcgdiff().levels(20)[-1]
    assert (end.time, end.alpha, end.sigma, end.ratio) == (0.0, 1.0, 0.0, 0.0)
    assert mcgdiff().at_ratio(0.0) == end


def test_more_steps_than_the_mcgdiff_grid_has_room_for() -> None:
    with pytest.raises(RequestError, match=r"num_steps=990 .*allowed: 1 to about 499"):
        mcgdiff().levels(990)


@pytest.mark.parametrize("name", list(NAMED))
def test_every_named_schedule_has_defaults(name: str) -> None:
    assert len(load_schedule({"schedule": name}).levels(5)) == 6


@pytest.mark.parametrize(
    ("mapping", "schedule"),
    [
        ({"schedule": "linear"}, linear()),
        ({"schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}, LDM),
        ({"schedule": "cosine", "num_timesteps": 500}, cosine(500)),
        ({"schedule": "flow_matching", "shift": 3.0}, FlowMatching(3.0)),
        ({"schedule": "mcgdiff"}, mcgdiff()),
    ],
)
def test_a_named_schedule_is_the_schedule(mapping: dict[str, object], schedule: Schedule) -> None:
    assert load_schedule(mapping) == schedule


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"beta_start": 0.1}, "schedule: is required; allowed: cosine, edm"),
        ({"schedule": "linear", "beta_start": 2}, "linear.beta_start: must be less than 1 (got 2)"),
        ({"schedule": "edm", "sigma_min": 9, "sigma_max": 1}, "edm: sigma_min must be below sigma_max"),
        ("linear", "must be a mapping"),
    ],
)
def test_wrong_schedules_are_one_line(mapping: object, line: str) -> None:
    with pytest.raises(RequestError) as error:
        load_schedule(mapping)
    assert str(error.value).startswith(line)

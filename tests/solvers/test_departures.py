"""Where the authors' code departs from the paper: each such field against what it stands for, on exact priors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import OPERATORS, parse_task
from ipsolve.priors import Level, Prior
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import DiscreteSchedule, Edm, Schedule, Spacing, linear
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import SOLVERS, Solver, parse_solver
from ipsolve.solvers.decoupled.daps import DAPS
from ipsolve.solvers.explicit.score_ald import ScoreALD
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.guidance.dsg import DSG
from ipsolve.solvers.guidance.mcg import MCG
from ipsolve.solvers.projection.ddrm import DDRM
from ipsolve.solvers.projection.dds import DDS
from ipsolve.solvers.projection.ilvr import ILVR
from ipsolve.solvers.projection.score_sde import ScoreSDE

from .conftest import SHAPE, ShuffledPrior, mixture, posed
from .test_every_solver import SMALL, one_sample, small

SR: dict[str, object] = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
NOISELESS = SR | {"noise_std": 0.0}
HALF: dict[str, object] = {"operator": "random_inpainting", "drop_rate": 0.5, "noise_std": 0.05}


class Seen(Prior):
    """A prior that keeps what it was asked, and may clip its answers."""

    name = "seen"

    def __init__(self, prior: Prior, clip: bool = False) -> None:
        self.prior, self.clip, self.latent = prior, clip, prior.latent
        self.image_shape, self.latent_shape, self.schedule = prior.image_shape, prior.latent_shape, prior.schedule
        self.asked: list[tuple[Tensor, Level]] = []

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        self.asked.append((x_t.detach(), t))
        x_0 = self.prior.denoise(x_t, t)
        return x_0.clamp(-1, 1) if self.clip else x_0

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.prior.decode(z)


@dataclass(frozen=True)
class Spaced(DiscreteSchedule):
    """DDPM's table with another spacing of its own."""

    own: Spacing = "linspace"

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        return super().levels(num_steps, spacing or self.own)


def with_schedule(prior: MixturePrior, schedule: Schedule) -> MixturePrior:
    prior.schedule = schedule
    return prior


def pixel(schedule: Schedule | None = None, std: float = 0.3) -> MixturePrior:
    return with_schedule(MixturePrior(mixture(std=std), SHAPE), schedule or linear())


@torch.no_grad()
def solved(solver: Solver, task: dict[str, object], prior: Prior, batch: int = 2) -> Tensor:
    return one_sample(solver, posed(task, prior, batch).problem)


SPACED = [name for name in SOLVERS if "timestep_spacing" in {field.name for field in fields(SOLVERS[name])}]


def test_methods_on_the_levels_of_the_schedule_can_be_told_which() -> None:
    # with levels of their own, or none
    others = {"admm_pnp", "daps", "dcdp", "deep_image_prior", "fast_dips", "flair", "latino", "pnp_cm"}
    others |= {"pseudo_inverse", "tv"}
    assert set(SOLVERS) - set(SPACED) == others


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("name", SPACED)
def test_a_spacing_is_that_of_the_levels_alone(name: str, spacing: Spacing) -> None:
    """The same method on a schedule that is spaced so by itself."""
    settings = {key: value for key, value in SMALL[name].items() if key != "skip"}
    table = linear().alphas_cumprod
    latent = "latent" in SOLVERS[name].requires

    def answer(schedule: Schedule, **more: Any) -> Tensor:
        prior = with_schedule(ShuffledPrior(mixture()), schedule) if latent else pixel(schedule)
        return solved(parse_solver({"solver": name, **settings, **more}), SR, prior)

    told = answer(linear(), timestep_spacing=spacing)
    torch.testing.assert_close(told, answer(Spaced(table, 0, True, spacing)), rtol=0, atol=0)
    assert not torch.equal(told, answer(linear()))


@pytest.mark.parametrize("name", ["dps", "dpps", "mcg", "dsg", "mpgd", "dmps", "ilvr", "dcdp", "diffpir"])
def test_clipping_is_that_of_the_prior(name: str) -> None:
    """A prior that clips its answers itself, gradient and all, gives the same; this one's are far outside [-1, 1]."""
    clips = replace(small(name), clip_denoised=True)  # type: ignore[type-var]
    told = solved(clips, SR, pixel(std=2.0))
    torch.testing.assert_close(told, solved(small(name), SR, Seen(pixel(std=2.0), clip=True)), rtol=0, atol=1e-12)
    assert not torch.allclose(told, solved(small(name), SR, pixel(std=2.0)), atol=0.01)


@pytest.mark.parametrize("name", ["dsg", "mpgd", "dcdp", "diffpir"])
def test_latents_are_not_clipped(name: str) -> None:
    solver = parse_solver({"solver": name, "clip_denoised": True})
    with pytest.raises(RequestError, match=f"^solver {name} needs a pixel prior"):
        solver.check(parse_task(SR), frozenset({"latent"}))


SDE_CURRENT = ScoreSDE(1, corrector_steps=0, measurement_level="current")


@pytest.mark.parametrize(
    "solver", [ILVR(1, reference_level="current"), MCG(1, measurement_level="current"), SDE_CURRENT]
)
def test_a_measurement_may_keep_the_noise_of_the_level_before(solver: Solver) -> None:
    """Of one step to the clean image: A x is alpha_t y + sigma_t A n in place of y, n the third draw."""
    problem, drawn = posed(NOISELESS, pixel(), 2).problem, posed(NOISELESS, pixel(), 2).problem
    n, t = [drawn.noise() for _ in range(3)][-1], problem.prior.schedule.levels(1)[0]
    a = problem.linear_operator.forward
    expected = t.alpha * problem.y + t.sigma * a(n)
    torch.testing.assert_close(a(one_sample(solver, problem)), expected, rtol=0, atol=1e-9)


def test_ilvr_frees_one_step_more_than_range_t() -> None:
    """The code conditions the steps i > range_t of i = T - 1 .. 0; null conditions all, as the paper does."""

    def missed(range_t: int | None) -> float:
        posed_problem = posed(NOISELESS, pixel())
        with torch.no_grad():
            x = ILVR(num_steps=6, range_t=range_t).solve(posed_problem.problem)
        return float(posed_problem.problem.residual(x).abs().max())

    assert missed(None) < 1e-9
    assert missed(0) > 1e-6

    def matters(range_t: int) -> float:
        """Return how far the results of two measurements are apart."""
        solver = ILVR(num_steps=6, range_t=range_t)
        return float((solved(solver, SR, pixel()) - solved(solver, HALF, pixel())).abs().max())

    assert matters(5) == 0  # i = 5 is the first step: none is conditioned
    assert matters(4) > 0.01


def test_score_sde_with_the_noise_of_the_forward_step() -> None:
    """Ancestral mean plus sqrt(beta) z, with none in the last step."""
    solver = ScoreSDE(num_steps=3, corrector_steps=0, measurement_weight=0.0, predictor_noise="forward")
    prior, problem = pixel(), posed(SR, pixel()).problem
    found = solver.solve(problem)
    rng = posed(SR, pixel()).problem.rng
    levels = prior.schedule.levels(3)
    x = levels[0].sigma * rng.normal(*SHAPE, dtype=torch.float64)
    for t, s in pairwise(levels):
        beta = 1 - (t.alpha / s.alpha) ** 2
        score = (t.alpha * prior.denoise(x, t) - x) / t.sigma**2
        z, _ = rng.normal(*SHAPE, dtype=torch.float64), rng.normal(*SHAPE, dtype=torch.float64)
        x = (x + beta * score) / (1 - beta) ** 0.5 + (0 if s is levels[-1] else beta**0.5) * z
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 5])
def test_ddrm_strict_ends_on_the_estimate(steps: int) -> None:
    """Without noise the paper ends on the measurement, the code on E[x_0 | x_t] of its last level."""
    seen = Seen(pixel())
    ends = {strict: solved(DDRM(num_steps=steps, strict=strict), NOISELESS, seen) for strict in (False, True)}
    problem = posed(NOISELESS, seen, 2).problem
    assert problem.residual(ends[False]).abs().max() < 1e-9
    torch.testing.assert_close(ends[True], seen.prior.denoise(*seen.asked[-1]), rtol=0, atol=1e-12)
    assert problem.residual(ends[True]).abs().max() > 1e-3


def test_ddrm_strict_is_no_other_method_where_there_is_noise() -> None:
    ends = [solved(DDRM(num_steps=6, strict=strict), SR, pixel()) for strict in (False, True)]
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_ddrm_unit_start_begins_with_the_first_state_over_its_noise() -> None:
    seen = {unit: Seen(pixel()) for unit in (False, True)}
    for unit, prior in seen.items():
        solved(DDRM(num_steps=3, unit_start=unit), SR, prior)
    (x, t), (over, _) = seen[False].asked[0], seen[True].asked[0]
    assert t.sigma < 0.999
    torch.testing.assert_close(over * t.sigma, x, rtol=0, atol=1e-12)


def test_daps_ode_may_end_in_a_state() -> None:
    """Langevin steps of no length leave what the ODE of the only level ended with: one Euler step to ode_sigma_min."""
    seen = Seen(pixel(Edm()))
    still = {"num_steps": 1, "sigma_max": 5.0, "ode_steps": 1, "langevin_steps": 1, "lr": 1e-30, "limit_lr": False}
    end = solved(DAPS(**still, ode_sigma_min=0.5, ode_end="state"), SR, seen)
    x, t = seen.asked[0]
    x_0 = seen.prior.denoise(x, t)
    torch.testing.assert_close(end, x_0 + 0.5 / 5.0 * (x - x_0), rtol=0, atol=1e-9)
    torch.testing.assert_close(solved(DAPS(**still, ode_sigma_min=0.5), SR, seen), x_0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("latent", [False, True])
def test_dds_may_hand_its_last_estimate_on_as_it_is(latent: bool) -> None:
    """The denoiser's last call is of the estimate that the step before has made consistent, or of that with noise."""
    seen = Seen(ShuffledPrior(mixture()) if latent else pixel())
    problem = posed(SR, seen, 2).problem
    for renoise_last in (True, False):
        seen.asked.clear()
        solved(DDS(num_steps=3, renoise_last=renoise_last), SR, seen)
        before = seen.decode(seen.prior.denoise(*seen.asked[-2]))
        estimate = seen.encode(DDS()._consistent(problem.linear_operator, problem, before))
        given = seen.asked[-1][0]
        assert torch.allclose(given, estimate, rtol=0, atol=1e-12) is not renoise_last


@pytest.mark.parametrize("task", [SR, HALF], ids=["everywhere", "masked"])
def test_dps_for_poisson_noise(task: dict[str, object]) -> None:
    """||r / |y||| of the code, mean over the measured values, is a step of its own length for each image."""
    problem = posed(task, pixel(), 2).problem
    if task is SR:
        problem.y[0, 0, 0, 0] = 0.0  # a value of mid-grey has no inverse
    both = DPS(num_steps=4, zeta=0.1, norm="poisson").solve(replace(problem, rng=problem.rng.select(torch.arange(2))))
    for row, y in enumerate(problem.y):
        measured = y[y != 0] if task is HALF else y
        length = 0.1 * float(measured.abs().clamp_min(1 / 255).reciprocal().mean())
        own = problem.select(torch.tensor([row]))
        torch.testing.assert_close(both[row], DPS(num_steps=4, zeta=length).solve(own)[0], rtol=0, atol=1e-9)


def test_presets_are_of_tasks_that_exist() -> None:
    """DAPS's and DCDP's are named by operator."""
    families = {"inpainting", "blur"}
    for solver in ("daps", "dcdp"):
        named = {name.removeprefix("latent_") for name in SOLVERS[solver].PRESETS}
        assert named <= set(OPERATORS) | families


def test_dsg_presets_are_table_3() -> None:
    rows = {name: (p["interval"], p["guidance_rate"], p["num_steps"]) for name, p in DSG.PRESETS.items()}
    assert rows["super_resolution_1000"] == (20, 0.2, 1000)
    assert rows["gaussian_blur_100"] == (1, 0.1, 100)
    assert all(name.endswith(f"_{steps}") for name, (_, _, steps) in rows.items())


@pytest.mark.parametrize("name", SOLVERS)
def test_every_preset_can_be_run(name: str) -> None:
    for preset in SOLVERS[name].PRESETS:
        solver = parse_solver({"solver": name, "preset": preset})
        assert solver.cost(frozenset({"pixel"})).denoiser >= 0


@pytest.mark.parametrize("task", [SR, HALF], ids=["sr", "inpainting"])
def test_the_official_score_ald_stays_where_it_should(task: dict[str, object]) -> None:
    """Finite and on the data; without its limit it runs away, and overflows at its full length."""
    official = parse_solver({"solver": "score_ald", "preset": "official", "num_steps": 60})
    known = posed(task, pixel())
    with torch.no_grad():
        x = official.solve(known.problem)
        unlimited = replace(official, score_limit=None).solve(posed(task, pixel()).problem)  # type: ignore[type-var]
    assert isinstance(x, Tensor)
    assert known.consistency(x).max() < 1.5
    assert not bool((unlimited.abs() < 1e6).all())  # type: ignore[union-attr]


def test_the_levels_of_the_official_score_ald() -> None:
    """The last 1155 of 2311 levels between 232 and 0.0066, on a prior that knows them all."""
    official = parse_solver({"solver": "score_ald", "preset": "official"})
    assert isinstance(official, ScoreALD)
    theirs = torch.logspace(*torch.tensor([232.0, 0.0066]).log10(), 2311, dtype=torch.float64)[1156:]
    levels = official._levels(Edm(sigma_min=0.001, sigma_max=300.0))
    ours = torch.tensor([level.ratio for level in levels], dtype=torch.float64)
    assert len(ours) == 1155
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)

"""FlowDPS, FlowChef and FLAIR on Gaussian priors, where every line of them can be written by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import FlowMatching, Level, scaled_linear
from ipsolve.priors.coordinates import as_flow
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import Solver, parse_solver
from ipsolve.solvers.flow.calibration import velocity_errors, white_errors
from ipsolve.solvers.flow.flair import FLAIR
from ipsolve.solvers.flow.flowchef import FlowChef
from ipsolve.solvers.flow.flowdps import FlowDPS
from ipsolve.solvers.guidance.mpgd import MPGD

from .conftest import SHAPE, ShuffledPrior, mixture, posed
from .dense_gaussian import SCHEDULES, DenseGaussian, dense_gaussian

TASK = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def flow_levels(p: DenseGaussian, num_steps: int) -> list[tuple[float, Level]]:
    """The times t = sigma / (alpha + sigma) of the levels of a prior, and the levels."""
    return [(t.sigma / (t.alpha + t.sigma), t) for t in p.schedule.levels(num_steps)]


def ends(p: DenseGaussian, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """z_0 and z_1 of the straight path through x, by the regression formula for (1 - t) x_0 + t n."""
    gain = (1 - t) * p.std**2 / ((1 - t) ** 2 * p.std**2 + t**2)
    z_0 = p.mean + gain * (x - (1 - t) * p.mean)
    return z_0, (x - (1 - t) * z_0) / t


def slope(p: DenseGaussian, x: Tensor, form: str) -> Tensor:
    """grad ||M (A x - y)||, M = I, A^T or A^+."""
    m = {"measurement": torch.eye(2, dtype=torch.float64), "adjoint": p.a.T, "pinv": torch.linalg.pinv(p.a)}[form]
    r = p.residual(x) @ m.T
    return (r / r.norm(dim=1, keepdim=True)) @ m @ p.a


@pytest.mark.parametrize("form", ["measurement", "adjoint", "pinv"])
@every_schedule
def test_flowdps_by_hand(schedule: str, form: str) -> None:
    p = dense_gaussian(schedule)
    rng = p.rng()
    levels = flow_levels(p, 6)
    x = levels[0][0] * p.normal(rng)
    for (t, _), (s, _) in pairwise(levels):
        z_0, z_1 = ends(p, x, t)
        moved = z_0
        for _ in range(2):
            moved = moved - 0.3 * slope(p, moved, form)
        z_0 = (1 - t) * z_0 + t * moved
        x = (1 - s) * z_0 + s * (math.sqrt(s) * z_1 + math.sqrt(1 - s) * p.normal(rng))
    found = FlowDPS(num_steps=6, data_steps=2, step_size=0.3, residual=form).solve(p.problem)  # type: ignore[arg-type]
    torch.testing.assert_close(found, x / (1 - levels[-1][0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [FlowDPS(5, data_steps=0, fresh_noise=False), FlowChef(5, guidance_scale=0.0)])
def test_without_data_a_flow_is_followed_by_euler_steps(solver: Solver) -> None:
    p = dense_gaussian("flow")
    x = p.normal(p.rng())
    for t, s in pairwise(FlowMatching().levels(5)):
        z_0, z_1 = ends(p, x, t.sigma)
        x = x + (s.sigma - t.sigma) * (z_1 - z_0)
    torch.testing.assert_close(solver.solve(p.problem), x, rtol=1e-10, atol=1e-10)


def test_flowdps_ends_in_samples_of_the_prior() -> None:
    """No data: the variance of each state follows from that of the last one, linearly, for a Gaussian."""

    p = dense_gaussian("flow", batch=4000)
    variance = 1.0
    for t, s in pairwise(FlowMatching().levels(60)):
        gain, path = (1 - t.sigma) * p.std**2, (1 - t.sigma) ** 2 * p.std**2 + t.sigma**2
        along = (1 - s.sigma) * gain / path + s.sigma * math.sqrt(s.sigma) * t.sigma / path
        variance = along**2 * variance + s.sigma**2 * (1 - s.sigma)
    x = FlowDPS(num_steps=60, data_steps=0).solve(p.problem)
    # 20000 numbers: the std of their variance is 1%
    torch.testing.assert_close((x - p.mean).var().item(), variance, rtol=0.04, atol=0)
    torch.testing.assert_close(x.mean(0), p.mean, rtol=0, atol=5 * p.std / math.sqrt(4000))


def test_a_data_step_of_flowdps_has_its_length() -> None:
    """A = I: at t = 1 the blend is the moved estimate alone, ``step_size`` along the residual."""
    p = dense_gaussian("flow")
    problem = replace(p.problem, y=p.mean + 3.0, operator=Matrix(torch.eye(5, dtype=torch.float64)[None]))
    problem = replace(problem, y=problem.y.expand(3, 5))
    x = FlowDPS(num_steps=1, data_steps=1, step_size=0.25).solve(problem)
    torch.testing.assert_close((x - p.mean).norm(dim=1), torch.full((3,), 0.25, dtype=torch.float64))
    assert ((x - p.mean) > 0).all()


def test_an_adjoint_is_asked_of_linear_operators_alone() -> None:
    hdr = parse_task({"operator": "hdr", "noise_std": 0.05})
    FlowDPS().check(hdr, frozenset({"pixel"}))
    with pytest.raises(RequestError, match="solver flowdps needs a linear operator, hdr is not"):
        parse_solver({"solver": "flowdps", "preset": "official"}).check(hdr, frozenset({"pixel"}))


@pytest.mark.parametrize("guide_last", [True, False])
@pytest.mark.parametrize("iterations", [1, 3])
@every_schedule
def test_flowchef_by_hand(schedule: str, iterations: int, guide_last: bool) -> None:
    p = dense_gaussian(schedule)
    levels = flow_levels(p, 5)
    x = levels[0][0] * p.normal(p.rng())
    for step, ((t, _), (s, _)) in enumerate(pairwise(levels)):
        z_0, z_1 = ends(p, x, t)
        for k in range(iterations if guide_last or step < 4 else 0):
            x = x - 0.4 * 2 / 2 * p.residual(z_0 if k == 0 else x - t * (z_1 - z_0)) @ p.a
        x = x + (s - t) * (z_1 - z_0)
    solver = FlowChef(num_steps=5, guidance_scale=0.4, iterations=iterations, guide_last=guide_last)
    torch.testing.assert_close(solver.solve(p.problem), x / (1 - levels[-1][0]), rtol=1e-9, atol=1e-9)


def test_on_a_straight_path_flowchef_arrives_at_the_data() -> None:
    """A = I and half the gradient of ||.||^2: the new x_0 is y where v stays what it is, here in a single step."""
    p = dense_gaussian("flow")
    y = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = replace(p.problem, y=y, operator=Matrix(torch.eye(5, dtype=torch.float64)[None]))
    x = FlowChef(num_steps=1, guidance_scale=5 / 2).solve(problem)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@every_schedule
def test_a_step_of_flowchef_is_one_of_mpgd(schedule: str) -> None:
    """grad ||r||^2 / m = 2 ||r|| / m grad ||r||: a step of that length, from the same state."""
    p = dense_gaussian(schedule, batch=1)
    start = p.schedule.levels(1)[0]
    x_0 = p.denoise(start.sigma * p.normal(p.rng()), start)
    length = 2 * float(norm(p.residual(x_0))) / 2
    flowchef = FlowChef(num_steps=1, guidance_scale=0.3).solve(p.problem)
    # all three schedules end clean, where both move the estimate itself
    mpgd = MPGD(num_steps=1, guidance_scale=0.3 * length, eta=0.0).solve(p.problem)
    torch.testing.assert_close(flowchef, mpgd, rtol=1e-9, atol=1e-9)


def flair_by_hand(p: DenseGaussian, num_steps: int, data_steps: int, lr: float, adjust: bool) -> Tensor:
    rng = p.rng()
    m, _ = p.a.shape
    gram = p.a @ p.a.T + p.noise_std**2 * torch.eye(m, dtype=torch.float64)
    mu = torch.linalg.solve(gram, p.y.T).T @ p.a
    z_1 = p.normal(rng)
    trust = [(1 - u) ** 2 + u**2 for u in torch.linspace(0, 1, 101, dtype=torch.float64).tolist()]
    for k in range(1, num_steps + 1):
        t = 1 - k * 0.82 / (num_steps + 1)
        low = int(t * 100)
        weight = 0.5 * (trust[low] + (t * 100 - low) * (trust[low + 1] - trust[low])) / (sum(trust) / 101)
        kept = 1 - t if adjust else 0.0
        eps = kept * z_1 + math.sqrt(1 - kept**2) * p.normal(rng)
        z_0, _ = ends(p, (1 - t) * mu + t * eps, t)
        v = ((1 - t) * mu + t * eps - z_0) / t
        z_1 = (1 - t) * mu + t * eps + (1 - t) * v
        mu = mu - weight * (v - (eps - mu))
        for row in range(len(mu)):
            for _ in range(data_steps):
                r = p.a @ mu[row] - p.y[row]
                if r.square().sum() < m * p.noise_std**2:
                    break
                mu[row] = mu[row] - lr * weight * 2 * r @ p.a
    return mu


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("data_steps", [0, 8])
@every_schedule
def test_flair_by_hand(schedule: str, data_steps: int, adjust: bool) -> None:
    p = dense_gaussian(schedule)
    solver = FLAIR(num_steps=6, data_steps=data_steps, data_lr=0.2, trajectory_adjustment=adjust)
    expected = flair_by_hand(p, 6, data_steps, 0.2, adjust)
    torch.testing.assert_close(solver.solve(p.problem), expected, rtol=1e-7, atol=1e-7)


def test_flair_leaves_a_residual_as_large_as_the_noise() -> None:
    p = dense_gaussian("flow", noise_std=0.3)
    mu = FLAIR(num_steps=30, data_steps=400, data_lr=0.02).solve(p.problem)
    ratio = p.residual(mu).square().mean(1).sqrt() / p.noise_std
    assert (ratio <= 1).all()
    assert ratio.max() > 0.9


def test_flair_goes_to_the_mean_of_the_prior_where_there_are_no_data() -> None:
    """The regulariser is linear in mu - m, and its noise has mean zero."""
    p = dense_gaussian("flow", batch=3000)
    blind = replace(p.problem, operator=Matrix(torch.zeros(1, 2, 5, dtype=torch.float64)))
    mu = FLAIR(num_steps=200, weight=1.0, trajectory_adjustment=False, data_steps=0).solve(blind)
    torch.testing.assert_close(mu.mean(0), p.mean, rtol=0, atol=0.1)


@pytest.mark.parametrize("errors", [(1.0, 1.0), (4.0, 2.0, 1.0), tuple(white_errors(11))])
def test_the_weights_of_flair_have_their_mean(errors: tuple[float, ...]) -> None:
    solver = FLAIR(weight=0.7, errors=errors)
    times = torch.linspace(1, 0, len(errors), dtype=torch.float64).tolist()
    found = torch.tensor([solver._weight(t) for t in times], dtype=torch.float64)
    assert found.mean().item() == pytest.approx(0.7)
    # less weight where the velocity is less accurate; the first entry is that of t = 1
    products = found * torch.tensor(errors, dtype=torch.float64)
    torch.testing.assert_close(products, products[:1].expand(len(errors)))


@every_schedule
def test_calibration_finds_the_error_of_a_gaussian(schedule: str) -> None:
    """Var[n - x_0 | x_t] = c / ((1 - t)^2 c + t^2) for x_0 ~ N(m, c I)."""
    c = 0.36
    mean = torch.linspace(-1, 1, 100, dtype=torch.float64)
    prior = MixturePrior(GaussianMixture.isotropic(torch.ones(1), mean[None], c**0.5), (100,), SCHEDULES[schedule])
    found = velocity_errors(prior, 6, samples=200, num_steps=100, dtype=torch.float64)
    exact = [c / ((1 - t) ** 2 * c + t**2) for t in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)]
    # 20000 numbers each; the first level of a schedule that does not reach pure noise is a little below t = 1
    assert found == pytest.approx(exact, rel=0.06)
    assert velocity_errors(prior, 2, samples=4, num_steps=5) == velocity_errors(prior, 2, samples=4, num_steps=5)


def test_white_errors_are_those_of_a_white_gaussian() -> None:
    assert white_errors(3) == pytest.approx((1.0, 2.0, 1.0))


@pytest.mark.parametrize(
    "solver",
    [
        FlowDPS(num_steps=8, step_size=0.3),
        FlowChef(num_steps=8, guidance_scale=2.0, iterations=2),
        FLAIR(num_steps=8, data_lr=0.5),
    ],
    ids=lambda solver: solver.name,
)
def test_a_prior_is_the_same_prior_as_a_flow(solver: Solver) -> None:
    """What a method gives on a prior it gives on the flow of it, in pixels and behind an orthonormal autoencoder."""
    for prior in (MixturePrior(mixture(), SHAPE), ShuffledPrior(mixture())):
        with torch.no_grad():
            direct = solver.solve(posed(TASK, prior).problem)
            seen = solver.solve(posed(TASK, as_flow(prior)).problem)
        assert isinstance(direct, Tensor)
        assert isinstance(seen, Tensor)
        torch.testing.assert_close(direct, seen, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "share"),
    [
        (FlowDPS(num_steps=40, step_size=2.0), 0.6),  # the data are blended in with weight t alone
        (FlowChef(num_steps=40, guidance_scale=40.0), 0.5),
        (FLAIR(num_steps=40, data_lr=1.0), 0.5),
    ],
    ids=["flowdps", "flowchef", "flair"],
)
def test_the_data_are_approached(solver: Solver, share: float) -> None:
    prior = ShuffledPrior(mixture())
    prior.schedule = FlowMatching(shift=3.0)
    problem = posed(TASK, prior).problem
    with torch.no_grad():
        x = solver.solve(problem)
        free = FlowDPS(num_steps=40, data_steps=0).solve(posed(TASK, prior).problem)
    assert isinstance(x, Tensor)
    assert (norm(problem.residual(x)) < share * norm(problem.residual(free))).all()


@pytest.mark.parametrize("solver", [FlowDPS(5, data_steps=0, fresh_noise=False), FlowChef(5, guidance_scale=0.0)])
def test_the_end_of_a_schedule_that_is_not_clean_is_not_darkened(solver: Solver) -> None:
    """Without data both are deterministic DDIM, and answer with x_s / alpha_s: a flow's (1 - s) x_0 would be dark."""
    p = dense_gaussian()
    prior = MixturePrior(p.prior.mixture, (5,), scaled_linear(0.0015, 0.0195))
    levels = prior.schedule.levels(5)
    assert levels[-1].sigma > 0
    x = levels[0].sigma * p.normal(p.rng())
    for t, s in pairwise(levels):
        x_0 = prior.denoise(x, t)
        x = s.alpha * x_0 + s.sigma * (x - t.alpha * x_0) / t.sigma
    found = solver.solve(replace(p.problem, prior=prior))
    torch.testing.assert_close(found, x / levels[-1].alpha, rtol=1e-9, atol=1e-9)

"""ReSample against the figures on record of the authors' code, and against a plain per-image rewriting of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.operators import Operator
from ipsolve.priors import Level, MeteredPrior, Prior, scaled_linear
from ipsolve.randomness import image_rng
from ipsolve.solvers import parse_solver
from ipsolve.solvers.consistency.resample import ReSample
from ipsolve.solvers.steps.hard_consistency import is_hit, phase_of, resampling_variance

from .conftest import IDS, LATENT, ShuffledPrior, mixture, posed

LDM = scaled_linear(0.0015, 0.0195)
LEVELS = LDM.levels(500)  # 499 - index is the position of the authors' index
TASK = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


@pytest.mark.parametrize(("index", "official"), [(330, 0.884), (170, 0.424), (160, 0.401), (10, 0.121)])
def test_official_resampling_variance(index: int, official: float) -> None:
    t, s = LEVELS[499 - index], LEVELS[500 - index]
    assert resampling_variance(40, t, s, "sigma") == pytest.approx(official, abs=6e-4)


@pytest.mark.parametrize(("index", "paper", "tolerance"), [(330, 35.0, 0.5), (10, 0.0043, 5e-5)])
def test_paper_resampling_variance(index: int, paper: float, tolerance: float) -> None:
    t, s = LEVELS[499 - index], LEVELS[500 - index]
    assert resampling_variance(40, t, s, "alpha") == pytest.approx(paper, abs=tolerance)


def test_official_consistency_blocks() -> None:
    """33 blocks at index 330, 320, ..., 10, the first 17 in pixels, the other 16 in the latent."""
    third = (1 / 3, 2 / 3)
    hits = [499 - i for i in range(500) if phase_of(i, 500, third) > 1 and is_hit(i, 500, 10)]
    assert hits == list(range(330, 0, -10))
    assert [n for n in hits if phase_of(499 - n, 500, third) == 2] == list(range(330, 160, -10))


class Shrinking(ShuffledPrior):
    """A denoiser that costs nothing, to count calls."""

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return 0.5 * x_t


def test_official_number_of_network_calls() -> None:
    """665 denoiser calls without a backward call; 500 guided steps and 17 latent fits through the decoder."""
    metered = MeteredPrior(Shrinking(mixture()), 1)
    solver = parse_solver({"solver": "resample", "pixel_iterations": 1, "latent_iterations": 1})
    with torch.no_grad():
        solver.solve(posed(TASK, metered, batch=1).problem)
    assert {name: int(count) for name, count in metered.counts.items()} == {
        "denoiser": 665,
        "denoiser_backward": 0,
        "decoder": 500 + 17 + 17 + 1,  # and 17 decodings before pixel fits, one at the end
        "decoder_backward": 500 + 17,
        "encoder": 17,
    }


def rewritten(solver: ReSample, y: Tensor, operator: Operator, prior: Prior, draws: list[Tensor]) -> Tensor:
    """The authors' loop for one image, from its description: index counts down, alphas are cumulative."""
    n = solver.num_steps
    levels = prior.schedule.levels(n)
    bar = [level.alpha**2 for level in levels]

    def network(z: Tensor, position: int) -> Tensor:
        level = levels[position]
        return (z - level.alpha * prior.denoise(z, level)) / level.sigma

    def adam(start: Tensor, image_of: object, lr: float, iterations: int) -> Tensor:
        w = start.clone().requires_grad_()
        optimiser = torch.optim.AdamW([w], lr=lr)
        losses: list[float] = []
        for i in range(iterations):
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(operator.forward(image_of(w)), y)  # type: ignore[operator]
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if loss.item() < solver.stop_threshold or (
                image_of == prior.decode
                and i >= solver.latent_patience
                and losses[i] > losses[i - solver.latent_patience]
            ):
                break
        return w.detach()

    z = draws.pop(0)
    for i in range(n):
        index, a, a_prev = n - 1 - i, bar[i], bar[i + 1]
        with torch.no_grad():
            e = network(z, i)
        out = a_prev**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - a_prev) ** 0.5 * e
        z_in = z.clone().requires_grad_()
        pseudo = (z_in - (1 - a) * e) / a**0.5
        distance = torch.linalg.norm(y - operator.forward(prior.decode(pseudo)))
        z = out - 0.5 * a * torch.autograd.grad(distance, z_in)[0]
        split = n // 3
        if index > n - split or index == 0 or index % solver.consistency_interval:
            continue
        x_t, inner = z, z
        for k in range(i, min(i + 5, n - 1)):
            with torch.no_grad():
                e = network(inner, k + 1)
            pseudo = (inner - (1 - bar[k]) * e) / bar[k] ** 0.5
            inner = bar[k + 1] ** 0.5 * (inner - (1 - bar[k]) ** 0.5 * e) / bar[k] ** 0.5 + (1 - bar[k + 1]) ** 0.5 * e
        if index >= split:
            pixels = adam(prior.decode(pseudo.detach()), lambda x: x, solver.pixel_lr, solver.pixel_iterations)
            z_0 = prior.encode(pixels)
        else:
            z_0 = adam(pseudo.detach(), prior.decode, solver.latent_lr, solver.latent_iterations)
        v = solver.gamma * (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        mean = (v * a_prev**0.5 * z_0 + (1 - a_prev) * x_t) / (v + 1 - a_prev)
        z = mean + (1 / (1 / v + 1 / (1 - a_prev))) ** 0.5 * draws.pop(0)
    return prior.decode(adam(z, prior.decode, solver.latent_lr, solver.latent_iterations)).detach()


def test_official_preset_is_the_authors_loop(latent_prior: Prior) -> None:
    solver = parse_solver(
        {
            "solver": "resample",
            "preset": "official",
            "num_steps": 30,
            "consistency_interval": 3,
            "pixel_iterations": 20,
            "latent_iterations": 20,
            "latent_patience": 10,
        }
    )
    assert isinstance(solver, ReSample)
    problem = posed(TASK, latent_prior, batch=2).problem
    with torch.no_grad():
        batched = solver.solve(problem)
    for row in range(2):
        own = problem.select(torch.tensor([row]))
        rng = image_rng(0, [IDS[row]], "solver")
        draws = [rng.normal(*LATENT, dtype=torch.float64) for _ in range(20)]
        draws[0] = draws[0] * latent_prior.schedule.levels(30)[0].sigma
        expected = rewritten(solver, own.y, own.known_operator, latent_prior, draws)
        torch.testing.assert_close(batched[row], expected[0], rtol=0, atol=1e-8)


def test_levels_end_at_the_first_entry_of_the_table() -> None:
    assert [level.time for level in LEVELS[:2]] == [999, 997]
    assert [level.time for level in LEVELS[-2:]] == [1, 0]
    assert all(t.sigma > s.sigma for t, s in pairwise(LEVELS))

"""Null-space ReSample: what its projections and its stops promise."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.base import Prior as BasePrior
from ipsolve.priors.schedules import Level
from ipsolve.randomness import image_rng
from ipsolve.solvers import parse_solver
from ipsolve.solvers.consistency.nullspace_resample import NullspaceReSample
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in

from .conftest import IDS, posed

SR = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


def make(**fields: Any) -> NullspaceReSample:
    solver = parse_solver({"solver": "nullspace_resample", "num_steps": 20, "latent_iterations": 3, **fields})
    assert isinstance(solver, NullspaceReSample)
    return solver


def test_published_preset_has_every_addition_off() -> None:
    preset = NullspaceReSample.PRESETS["published"]
    assert preset.keys() == {f.name for f in dataclasses.fields(NullspaceReSample)}  # no default of ours leaks in
    published = parse_solver({"solver": "nullspace_resample", "preset": "published"})
    assert isinstance(published, NullspaceReSample)
    assert published.estimate_std is None
    assert published.discrepancy is None
    assert not published.encode_correction
    assert not published.final_projection
    assert (published.projection_interval, published.num_steps) == (5, 500)
    assert published.phase_order == "latent_then_pixel"


def test_plain_projection_measures_as_y_exactly(latent_prior: Prior) -> None:
    """Kuang 2026, eq. 19: A x_0' = y whatever x_0t was, as long as y is in the range of A (it is: full row rank)."""
    problem = posed(SR, latent_prior).problem
    solver = make(estimate_std=None, final_projection=True)
    with torch.no_grad():
        x_hat = solver.solve(problem)
    assert problem.residual(x_hat).abs().max() < 1e-10


def test_projection_leaves_the_null_space_alone(latent_prior: Prior) -> None:
    task = posed(SR, latent_prior)
    x, problem, operator = task.x, task.problem, task.problem.linear_operator
    z = latent_prior.encode(x + 0.1)
    for encode_correction in (True, False):
        solver = make(estimate_std=None, encode_correction=encode_correction)
        projected = latent_prior.decode(solver._project(problem, z))
        moved = projected - (x + 0.1)
        torch.testing.assert_close(moved, operator.pinv(operator.forward(moved)), rtol=0, atol=1e-10)
        assert problem.residual(projected).abs().max() < 1e-10


def test_noise_aware_projection_is_the_posterior_mean_of_a_gaussian(latent_prior: Prior) -> None:
    """With x_0 ~ N(x_0t, estimate_std^2 I) and noise sigma it is E[x_0 | y]: Gaussian conditioning with a dense A."""
    task = posed(SR, latent_prior, batch=1)
    x, problem, operator = task.x, task.problem, task.operator
    estimate, std, sigma = x + 0.1, 0.3, 0.05
    basis = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
    a = operator.forward(basis).flatten(1).T
    gain = std**2 * a.T @ torch.linalg.inv(std**2 * a @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64))
    expected = estimate.flatten() + gain @ (problem.y.flatten() - a @ estimate.flatten())
    z = make(estimate_std=std)._project(problem, latent_prior.encode(estimate))
    torch.testing.assert_close(latent_prior.decode(z).flatten(), expected, rtol=0, atol=1e-9)


def test_discrepancy_principle_stops_at_the_noise_level(latent_prior: Prior) -> None:
    """The fit ends below tau^2 m sigma^2 but does not go on to fit the noise, as the published stop does."""
    task = posed(SR, latent_prior)
    start = latent_prior.encode(task.x + 0.5)
    long = {"latent_iterations": 2000, "latent_lr": 5e-3}
    careful = make(discrepancy=1.0, **long)._fit_latent(task.problem, start)
    published = make(discrepancy=None, **long)._fit_latent(task.problem, start)
    level = task.consistency(latent_prior.decode(careful))
    assert ((level > 0.8) & (level < 1.1)).all()
    assert (task.consistency(latent_prior.decode(published)) < 0.1).all()


def test_phase_orders_use_the_spaces_they_name(latent_prior: Prior) -> None:
    """A latent block calls the decoder with a backward call, a pixel block without."""
    first = {"phase_boundaries": [0.0, 1.0], "final_projection": False, "discrepancy": None, "guidance_scale": 0}
    for order, backward in (("latent_then_pixel", True), ("pixel_then_latent", False)):
        metered = MeteredPrior(latent_prior, 1)
        with torch.no_grad():
            make(phase_order=order, **first).solve(posed(SR, metered, batch=1).problem)
        assert (metered.counts["decoder_backward"] > 0).item() is backward


class Recording(BasePrior):
    """A prior that remembers at which levels it was asked."""

    def __init__(self, prior: Prior) -> None:
        self.__dict__.update(prior.__dict__)
        self.latent, self.prior, self.times = prior.latent, prior, list[float]()

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        self.times.append(t.time)
        return self.prior.denoise(x_t, t)

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.prior.decode(z)


def test_projection_state_chooses_the_estimate(latent_prior: Prior) -> None:
    times = latent_prior.schedule.levels(20)
    for state, extra in (("noisier", 0), ("cleaner", 1)):
        recording = Recording(latent_prior)
        solver = make(projection_state=state)
        with torch.no_grad():
            solver.solve(posed(SR, recording, batch=1).problem)
        hits = [step for step in range(20) if solver._is_hit(step)]
        expected = [times[i].time for i in range(20)] + extra * [times[i + 1].time for i in hits]
        assert sorted(recording.times) == sorted(expected)


def test_without_blocks_it_is_unconditional_ddim(latent_prior: Prior) -> None:
    solver = make(phase_boundaries=[1.0, 1.0], final_projection=False, guidance_scale=0)
    with torch.no_grad():
        x_hat = solver.solve(posed(SR, latent_prior).problem)
    levels = latent_prior.schedule.levels(20)
    z = levels[0].sigma * image_rng(0, IDS, "solver").normal(*latent_prior.latent_shape, dtype=torch.float64)
    for t, s in pairwise(levels):
        z_0 = latent_prior.denoise(z, t)
        z = ddim_step(z_0, noise_in(z, z_0, t), t, s)
    torch.testing.assert_close(x_hat, latent_prior.decode(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(NullspaceReSample)])
def test_every_field_is_used(field: str, latent_prior: Prior) -> None:
    """No recorded parameter may be ignored: changing it changes the result."""
    changed: dict[str, Any] = {
        "num_steps": 21,
        "timestep_spacing": "trailing",
        "phase_boundaries": [0.2, 0.5],
        "phase_order": "pixel_then_latent",
        "projection_interval": 3,
        "projection_state": "cleaner",
        "gamma": 5.0,
        "variance_denominator": "alpha",
        "guidance_scale": 0.2,
        "latent_lr": 0.02,
        "latent_iterations": 7,
        "latent_patience": 1,
        "stop_threshold": 0.05,
        "discrepancy": 30.0,
        "estimate_std": 0.05,
        "encode_correction": False,
        "final_latent_fit": True,
        "final_projection": False,
    }
    base: dict[str, Any] = {"phase_order": "latent_then_pixel", "encode_correction": True, "guidance_scale": 0.0,
                            "projection_state": "noisier", "variance_denominator": "sigma", "final_latent_fit": False,
                            "final_projection": True, "latent_iterations": 4, "latent_patience": 200, "latent_lr": 1e-2,
                            "estimate_std": 0.3, "gamma": 40.0, "projection_interval": 2}  # fmt: skip
    if field == "stop_threshold":
        base["discrepancy"] = None  # the two stops exclude each other
    if field == "latent_patience":
        base |= {"latent_lr": 3.0, "discrepancy": None}  # the loss must rise for patience to end
    prior: Prior = latent_prior
    if field == "encode_correction":
        prior = Lossy(latent_prior)
    results = []
    for fields in (base, {**base, field: changed[field]}):
        with torch.no_grad():
            results.append(make(**fields).solve(posed(SR, prior, batch=1).problem))
    assert not torch.equal(*results)


class Lossy(Recording):
    """Its encoding is not the inverse of its decoding, as with every real autoencoder."""

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x) * 0.9

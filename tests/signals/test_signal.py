"""What a shape says an x is, and what complex pairs promise: norms, noise and inner products of complex numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.linalg import conjugate_gradient
from ipsolve.operators import LinearOperator, parse_task
from ipsolve.operators.base import Operator
from ipsolve.priors import MixturePrior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.problem import pose
from ipsolve.randomness import image_rng
from ipsolve.signal import Signal
from ipsolve.solvers import parse_solver

IDS = ["a", "b", "c"]
SHAPE = (2, 16, 12)
MRI = {"operator": "fourier_sampling", "acceleration": 3, "noise_std": 0.1}


@pytest.mark.parametrize(
    ("shape", "kind", "sites"),
    [
        ((3, 8, 9), "rgb", (1, 8, 9)),
        ((1, 28, 28), "gray", (1, 28, 28)),
        ((2, 64, 64), "complex", (1, 64, 64)),
        ((16, 32, 32), "volume", (16, 32, 32)),
        ((8, 3, 32, 32), "video", (8, 1, 32, 32)),
        ((7,), "vector", (7,)),
    ],
)
def test_a_shape_says_what_a_signal_is(shape: tuple[int, ...], kind: str, sites: tuple[int, ...]) -> None:
    signal = Signal.of(shape)
    assert (signal.kind, signal.sites) == (kind, sites)
    assert torch.broadcast_shapes(shape, sites) == shape


@pytest.mark.parametrize("shape", [(5, 5), (8, 2, 32, 32), (1, 1, 3, 4, 5)])
def test_a_shape_of_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no signal has the shape"):
        Signal.of(shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 16, 16), (16, 8, 8), (8, 3, 6, 6)])
def test_what_is_dropped_is_dropped_in_all_channels_and_in_each_slice_and_frame_anew(shape: tuple[int, ...]) -> None:
    spec = parse_task({"operator": "random_inpainting", "drop_rate": 0.5}).operator
    mask = spec.draw(shape, image_rng(0, IDS, "operator")).singular_values()
    sites = Signal.of(shape).sites
    assert mask.shape == (3, *sites)
    assert (mask.flatten(1).mean(1) - 0.5).abs().max() < 1e-3
    if sites[0] > 1:
        assert not torch.equal(mask[:, 0], mask[:, 1])


def numbers(x: Tensor) -> Tensor:
    """Return the complex numbers of pairs, (B, 2, H, W) -> (B, H, W)."""
    return torch.complex(x[:, 0], x[:, 1])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the conjugated inner products of complex numbers, (B,)."""
    return (numbers(a).conj() * numbers(b)).flatten(1).sum(1)


def pairs(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return image_rng(seed, IDS, "truth").normal(*shape, dtype=dtype)


def test_norms_are_those_of_complex_numbers() -> None:
    x = pairs(*SHAPE)
    torch.testing.assert_close(norm(x), torch.linalg.vector_norm(numbers(x), dim=(1, 2)))


def test_noise_has_its_level_in_both_parts() -> None:
    noise = parse_task({"operator": "denoising", "noise_std": 0.3}).noise
    y = noise.apply(torch.zeros(3, 2, 200, 200, dtype=torch.float64), image_rng(0, IDS, "measurement"))
    torch.testing.assert_close(y.std((2, 3)), torch.full((3, 2), 0.3, dtype=torch.float64), rtol=0.03, atol=0)
    together = (y[:, 0] * y[:, 1]).mean((1, 2)) / 0.09
    assert together.abs().max() < 0.03  # and is not the same in both


def masked_fourier(dtype: torch.dtype) -> Operator:
    return parse_task(MRI).operator.draw(SHAPE, image_rng(0, IDS, "operator"), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_adjoint_is_that_of_the_conjugated_inner_product(dtype: torch.dtype, tolerance: float) -> None:
    operator = masked_fourier(dtype)
    assert isinstance(operator, LinearOperator)
    x, y = pairs(*SHAPE, dtype=dtype), pairs(*SHAPE, dtype=dtype, seed=1)
    left = [torch.vdot(a.flatten(), b.flatten()) for a, b in zip(numbers(operator.forward(x)), numbers(y), strict=True)]
    right = [
        torch.vdot(a.flatten(), b.flatten()) for a, b in zip(numbers(x), numbers(operator.adjoint(y)), strict=True)
    ]
    # both parts of <A x, y> = <x, A^H y>, not only the real one, with which real pairs reckon
    torch.testing.assert_close(torch.stack(left), torch.stack(right), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        torch.stack(left).real, (operator.forward(x) * y).flatten(1).sum(1), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_conjugate_gradients_reach_the_complex_solution(dtype: torch.dtype, tolerance: float) -> None:
    """(A^H A + w I) x = b for an A that couples both parts: a Fourier transform after a complex multiplication."""
    operator = masked_fourier(dtype)
    assert isinstance(operator, LinearOperator)
    coil = numbers(pairs(*SHAPE, dtype=dtype, seed=2))

    def times(x: Tensor, factor: Tensor) -> Tensor:
        z = numbers(x) * factor
        return torch.stack([z.real, z.imag], 1)

    def normal(x: Tensor) -> Tensor:
        return times(operator.adjoint(operator.forward(times(x, coil))), coil.conj()) + 0.5 * x

    x = pairs(*SHAPE, dtype=dtype)
    found = conjugate_gradient(normal, normal(x), 400, tolerance=0.0)
    torch.testing.assert_close(found, x, rtol=tolerance, atol=tolerance)


def test_the_columns_of_lowest_frequency_are_always_kept() -> None:
    spec = parse_task({"operator": "fourier_sampling", "acceleration": 4, "centre_fraction": 0.1}).operator
    mask = spec.draw((2, 8, 40), image_rng(0, IDS, "operator")).singular_values()
    assert mask.shape == (3, 1, 1, 40)
    assert mask.sum(-1).unique().tolist() == [10.0]
    assert bool((mask[..., [0, 1, -1]] == 1).all())
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("solver", ["pseudo_inverse", "ddnm", "ddrm", "dds", "mcg"])
def test_a_complex_image_is_solved_as_the_linear_algebra_of_pairs_says(solver: str) -> None:
    """A Gaussian prior of complex pairs: with all frequencies and no noise a projection returns the truth."""
    mixture = GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 384, dtype=torch.float64), 0.5)
    prior = MixturePrior(mixture, SHAPE)
    x = 0.5 * pairs(*SHAPE)
    task = parse_task({"operator": "fourier_sampling", "acceleration": 1})
    steps = {} if solver == "pseudo_inverse" else {"num_steps": 20}
    posed = pose(task, x, prior, 0, IDS)
    method = parse_solver({"solver": solver, **steps})
    method.check(task, prior.traits)
    with torch.no_grad():
        x_hat = method.solve(posed.problem)
    assert isinstance(x_hat, Tensor)
    assert bool((norm(x_hat - x) < 1e-2 * norm(x)).all())  # the last level of the schedule is not quite clean

"""Conjugate gradients, every image on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ipsolve.linalg import conjugate_gradient


def systems(count: int, size: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(count, size, rank, dtype=torch.float64, generator=generator)
    m = root @ root.mT
    return m, (m @ torch.randn(count, size, 1, dtype=torch.float64, generator=generator))[..., 0]


def apply(m: Tensor, x: Tensor) -> Tensor:
    return (m @ x[..., None])[..., 0]


def test_it_solves_positive_definite_systems() -> None:
    m, b = systems(5, 12, 20)
    x = conjugate_gradient(lambda v: apply(m, v), b, 100, 1e-13)
    torch.testing.assert_close(x, torch.linalg.solve(m, b), rtol=1e-8, atol=1e-8)


def test_from_zero_it_finds_the_least_solution_of_singular_ones() -> None:
    m, b = systems(5, 12, 6)
    x = conjugate_gradient(lambda v: apply(m, v), b, 100, 1e-12)
    torch.testing.assert_close(x, apply(torch.linalg.pinv(m, rtol=1e-10), b), rtol=1e-7, atol=1e-7)


def test_n_iterations_solve_n_distinct_eigenvalues() -> None:
    m = torch.diag(torch.tensor([1.0, 1.0, 3.0, 3.0, 10.0], dtype=torch.float64))[None]
    b = torch.arange(1, 6, dtype=torch.float64)[None]
    exact = torch.linalg.solve(m, b)
    assert not torch.allclose(conjugate_gradient(lambda v: apply(m, v), b, 2, 0.0), exact, rtol=1e-6)
    torch.testing.assert_close(conjugate_gradient(lambda v: apply(m, v), b, 3, 0.0), exact, rtol=1e-12, atol=1e-12)


def test_the_residual_meets_the_tolerance_for_every_image() -> None:
    m, b = systems(20, 10, 14)
    scale = torch.logspace(-6, 6, 20, dtype=torch.float64)[:, None]
    x = conjugate_gradient(lambda v: apply(m, v), scale * b, 500, 1e-5)
    residual = (apply(m, x) - scale * b).norm(dim=1)
    assert (residual <= 1.01e-5 * (scale * b).norm(dim=1)).all()
    assert (residual > 0).all()


def test_an_image_is_frozen_at_its_own_stop() -> None:
    """Images that converge at different times give what they give alone, whatever the others need."""
    m, b = systems(4, 12, 16)
    m[1] = torch.eye(12, dtype=torch.float64)
    m[2] = 0
    b[3] = 0
    together = conjugate_gradient(lambda v: apply(m, v), b, 60, 1e-4)
    for i in range(4):
        row = slice(i, i + 1)
        alone = conjugate_gradient(lambda v, row=row: apply(m[row], v), b[row], 60, 1e-4)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
    assert torch.equal(together[2:], torch.zeros(2, 12, dtype=torch.float64))
    torch.testing.assert_close(together[1], b[1])


def test_a_good_start_is_kept() -> None:
    m, b = systems(3, 8, 12)
    x = torch.linalg.solve(m, b)
    assert torch.equal(conjugate_gradient(lambda v: apply(m, v), b, 50, 1e-6, x), x)

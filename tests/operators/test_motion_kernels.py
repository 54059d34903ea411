"""Laws of the random motion-blur kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.operators.motion_kernels import motion_kernels
from ipsolve.randomness import image_rng

IDS = [str(i) for i in range(40)]


def kernels(size: int, intensity: float, ids: list[str] = IDS) -> Tensor:
    return motion_kernels(size, intensity, image_rng(0, ids, "operator"), torch.float64)


def covariance(kernel: Tensor) -> Tensor:
    """Return the 2 x 2 second moments of each kernel about its middle."""
    offset = torch.arange(kernel.shape[-1], dtype=torch.float64) - kernel.shape[-1] // 2
    points = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)
    return torch.einsum("bhw,hwi,hwj->bij", kernel, points, points)


@pytest.mark.parametrize("size", [3, 15, 61])
@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
def test_they_are_centred_distributions(size: int, intensity: float) -> None:
    kernel = kernels(size, intensity)
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    assert kernel.shape == (40, size, size)
    assert (kernel >= 0).all()
    torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(40, dtype=torch.float64))
    for axis in (1, 2):
        torch.testing.assert_close(kernel.sum(axis) @ offset, torch.zeros(40, dtype=torch.float64), rtol=0, atol=1e-9)


def test_an_image_has_its_own_kernel() -> None:
    kernel = kernels(31, 0.5)
    assert len(torch.unique(kernel.flatten(1), dim=0)) == len(IDS)
    torch.testing.assert_close(kernels(31, 0.5, IDS[7:8])[0], kernel[7], rtol=0, atol=1e-12)


def test_intensity_bends_the_path() -> None:
    """At 0 it is a segment, no wider than bilinear spreading makes it; more intensity leaves less length along it."""
    straight, tangled = (torch.linalg.eigvalsh(covariance(kernels(61, i))) for i in (0.0, 1.0))
    assert (straight[:, 0] < 0.3).all()
    assert tangled[:, 0].median() > 1
    assert tangled[:, 1].median() < straight[:, 1].median() / 2


def test_paths_are_long_enough_to_matter() -> None:
    """A kernel of 61 pixels spreads a point over many, for every image."""
    kernel = kernels(61, 0.5)
    assert (kernel.amax((1, 2)) < 0.2).all()
    assert (covariance(kernel).diagonal(dim1=1, dim2=2).sum(1) > 2**2).all()


def test_paths_curve_between_jerks() -> None:
    """At intensity 1/4 a path has one jerk on average and 37% have none; hardly any is straight all the same."""
    kernel = kernels(61, 0.25, [str(i) for i in range(300)])
    straight = torch.linalg.eigvalsh(covariance(kernel))[:, 0] < 0.4
    assert straight.double().mean() < 0.15

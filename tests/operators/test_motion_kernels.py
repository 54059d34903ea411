"""Laws of the random motion-blur kernels of both shapes, and what those of the papers measure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.operators.motion_kernels import motion_kernels
from ipsolve.operators.motion_walk import walk_kernels
from ipsolve.randomness import image_rng

IDS = [str(i) for i in range(40)]


def kernels(size: int, intensity: float, ids: list[str] = IDS) -> Tensor:
    return motion_kernels(size, intensity, image_rng(0, ids, "operator"), torch.float64)


def walks(size: int, intensity: float, count: int) -> Tensor:
    ids = [f"walk{i}" for i in range(count)]
    return walk_kernels(size, intensity, image_rng(0, ids, "operator"), torch.float64)


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


@pytest.mark.parametrize("size", [3, 15, 61, 121])
@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
def test_walks_are_distributions_of_their_own(size: int, intensity: float) -> None:
    kernel = walks(size, intensity, 8)
    assert kernel.shape == (8, size, size)
    assert (kernel >= 0).all()
    torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(8, dtype=torch.float64))
    assert len(torch.unique(kernel.flatten(1), dim=0)) >= (8 if size > 15 else 3)  # few lines fit on few pixels
    alone = walk_kernels(size, intensity, image_rng(0, ["walk5"], "operator"), torch.float64)
    torch.testing.assert_close(alone[0], kernel[5], rtol=0, atol=1e-12)


# The package ``motionblur``, 4,000 kernels of 61 pixels at intensity 0.5 and 2,000 at 0 and 1: mean standard deviations
# across and along a kernel, mean distance of its centroid from its middle, in pixels
PUBLISHED = {0.0: (0.56, 9.43, 1.80), 0.5: (1.34, 10.93, 1.53), 1.0: (1.83, 10.59, 0.58)}


@pytest.mark.parametrize("intensity", PUBLISHED)
def test_walks_measure_what_the_published_kernels_do(intensity: float) -> None:
    """Within four standard errors and what rounding to bytes takes from the tails; a small sample had 1.25 and 1.6."""
    kernel = walks(61, intensity, 600)
    offset = torch.arange(61, dtype=torch.float64) - 30
    centroid = torch.stack([kernel.sum(2) @ offset, kernel.sum(1) @ offset], -1)
    moments = covariance(kernel) - centroid[:, :, None] * centroid[:, None]
    minor, major = torch.linalg.eigvalsh(moments).clamp_min(0).sqrt().unbind(1)
    found = torch.stack([minor, major, centroid.norm(dim=1)])
    error = 4 * found.std(1) * (1 / 600 + 1 / 2_000) ** 0.5 + 0.05
    assert ((found.mean(1) - torch.tensor(PUBLISHED[intensity])).abs() < error).all(), found.mean(1)
    if intensity == 0.5:
        assert found.mean(1)[[0, 2]].tolist() == pytest.approx([1.25, 1.6], abs=0.2)


def test_which_kernels_a_task_draws() -> None:
    def drawn(**fields: object) -> Tensor:
        family = parse_task({"operator": "motion_blur", "kernel_size": 15, **fields}).operator.family((3, 32, 32))
        return family.parameters(image_rng(0, IDS, "operator"))["kernel"]

    rng = image_rng(0, IDS, "operator")
    assert torch.equal(drawn(), walk_kernels(15, 0.5, rng))
    assert torch.equal(drawn(shape="centred"), motion_kernels(15, 0.5, image_rng(0, IDS, "operator")))

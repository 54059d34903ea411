"""The deep image prior: networks of a batch against torch's own, sizes of any parity, and that noise is fitted last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ipsolve.operators import parse_task
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Posed, pose
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.classical.deep_image_prior import DeepImagePrior
from ipsolve.solvers.steps.skip_net import SkipNet, _convolve, _normalise

F64 = torch.float64
IDS = ["image0", "image1", "image2"]
SMALL = DeepImagePrior(channels=6, in_channels=3, scales=3, iterations=12, window=4, patience=3)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_of_the_batch_is_one_of_each_image(stride: int, size: int) -> None:
    x, weight = draw(3, 4, 7, 9), draw(3, 5, 4, size, size)
    found = _convolve(x, weight, stride)
    for row in range(3):
        padded = F.pad(x[row : row + 1], [size // 2] * 4, mode="reflect")
        expected = F.conv2d(padded, weight[row], stride=stride)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-12, atol=1e-12)


def test_normalisation_is_batch_normalisation_of_one_image() -> None:
    x, gain, offset = draw(3, 4, 5, 6), draw(3, 4), draw(3, 4) + 1
    found = _normalise(x, gain, offset)
    for row in range(3):
        expected = F.batch_norm(x[row : row + 1], None, None, gain[row], offset[row], training=True)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-10, atol=1e-10)


def test_the_published_network_at_its_size() -> None:
    """Five halvings, 128 channels and 4 in skips; 256 x 256, but for the biases that a normalisation takes away."""
    net = SkipNet(32, 3, (256, 256), 128, 4, 5)
    assert net.depth == 5
    down = sum(4 * c + 128 * c * 9 + 128 * 128 * 9 for c in (32, 128, 128, 128, 128))
    up = 5 * (128 * 132 * 9 + 128 * 128)
    affine = 2 * (5 * (4 + 128 + 128) + 5 * (132 + 128 + 128))
    weights = net.draw(image_rng(0, IDS[:1], "solver"), torch.float32)
    assert sum(w[0].numel() for w in weights) == down + up + affine + 3 * 128 + 3


@pytest.mark.parametrize(("size", "depth"), [((2, 2), 0), ((3, 5), 1), ((8, 8), 2), ((7, 64), 2), ((64, 64), 5)])
def test_small_images_have_fewer_halvings(size: tuple[int, int], depth: int) -> None:
    net = SkipNet(3, 3, size, 4, 2, 5)
    assert net.depth == depth
    weights = net.draw(image_rng(0, IDS, "solver"), F64)
    x = net(weights, draw(3, 3, *size))
    assert x.shape == (3, 3, *size)
    assert x.abs().max() < 1
    assert not torch.equal(weights[0][0], weights[0][1]), "every image has weights of its own"


def problem(shape: tuple[int, ...], task: dict[str, object], noise_std: float = 0.05) -> Posed:
    d = torch.Size(shape).numel()
    prior = MixturePrior(GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, d), 1.0), shape)
    rows = torch.linspace(-0.6, 0.6, shape[-2], dtype=F64)[:, None]
    smooth = (rows + torch.linspace(0, 0.3, shape[-1], dtype=F64)).expand(3, *shape)
    return pose(parse_task({**task, "noise_std": noise_std}), smooth.clone(), prior, 0, IDS)


@pytest.mark.parametrize("shape", [(1, 9, 7), (2, 8, 8), (3, 5, 12)])
def test_every_kind_and_size_of_image(shape: tuple[int, ...]) -> None:
    posed = problem(shape, {"operator": "denoising"})
    together = SMALL.solve(posed.problem)
    assert together.shape == (3, *shape)
    for row in range(3):
        alone = SMALL.solve(problem(shape, {"operator": "denoising"}).problem.select(torch.tensor([row])))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)


def test_what_is_missing_of_a_smooth_image_is_filled_in() -> None:
    """Inpainting: no noise, half of the pixels; a constant guess of the hidden ones would be off by about 0.36."""
    posed = problem((1, 16, 16), {"operator": "random_inpainting", "drop_rate": 0.5}, noise_std=0.0)
    solver = DeepImagePrior(channels=16, in_channels=8, scales=2, iterations=300, jitter=0.0, patience=None)
    error = (solver.solve(posed.problem) - posed.x).square().flatten(1).mean(1).sqrt()
    assert (error < 0.1).all()


def test_the_image_is_learned_first_and_its_noise_after() -> None:
    """The misfit falls to the end; the error is far below the noise early on, and near it at the end."""
    posed = problem((1, 16, 16), {"operator": "denoising"}, noise_std=0.3)

    def after(iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
        solver = DeepImagePrior(channels=16, in_channels=8, scales=2, iterations=iterations, jitter=0.0, patience=None)
        x = solver.solve(replace(posed.problem, rng=posed.problem.rng.select(torch.arange(3))))
        return posed.problem.image_mean_square(x), (x - posed.x).square().flatten(1).mean(1)

    (misfit_early, error_early), (misfit_late, error_late) = after(15), after(200)
    assert (misfit_late < 0.1 * misfit_early).all()
    assert (error_early < 0.3 * 0.3**2).all()
    assert (error_late > 0.7 * 0.3**2).all()


def test_other_signals_are_refused() -> None:
    with pytest.raises(RequestError, match="is for images"):
        DeepImagePrior().check(parse_task({"operator": "denoising", "noise_std": 0.1}), frozenset({"pixel"}))

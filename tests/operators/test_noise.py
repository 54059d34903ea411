"""Noise models: mean, variance and the std that solvers are told."""

from __future__ import annotations

import pytest
import torch

from ipsolve.operators import NOISES
from ipsolve.operators.noise import Gaussian, Impulse, Noise, Shot, Speckle
from ipsolve.randomness import image_rng

LEVELS: list[Noise] = [
    Gaussian(noise_std=0.05),
    Shot(photons=50),
    Impulse(probability=0.08),
    Speckle(speckle_std=0.2),
]
GREYS = [-1.0, -0.5, 0.0, 0.7]
PIXELS = 200_000


def noisy(noise: Noise, grey: float) -> torch.Tensor:
    return noise.apply(torch.full((1, PIXELS), grey, dtype=torch.float64), image_rng(0, ["a"], "measurement"))[0]


def test_every_noise_is_here() -> None:
    assert sorted(noise.name for noise in LEVELS) == list(NOISES)


@pytest.mark.parametrize("noise", LEVELS, ids=lambda noise: noise.name)
def test_std_is_the_root_mean_square_error_at_mid_grey(noise: Noise) -> None:
    assert noisy(noise, 0.0).square().mean().sqrt().item() == pytest.approx(noise.std, rel=0.01)


@pytest.mark.parametrize("grey", GREYS)
def test_means_and_variances(grey: float) -> None:
    u = (grey + 1) / 2
    p = 0.08
    expected = {
        "gaussian": (grey, 0.05**2),
        "shot": (grey, 4 * u / 50),
        "impulse": ((1 - p) * grey, (1 - p) * grey**2 + p - ((1 - p) * grey) ** 2),
        "speckle": (grey, (2 * u * 0.2) ** 2),
    }
    for noise in LEVELS:
        mean, variance = expected[noise.name]
        y = noisy(noise, grey)
        assert y.mean().item() == pytest.approx(mean, abs=5 * (variance / PIXELS) ** 0.5 + 1e-12)
        assert y.var().item() == pytest.approx(variance, rel=0.02, abs=1e-12)


@pytest.mark.parametrize("noise", LEVELS, ids=lambda noise: noise.name)
def test_noise_belongs_to_the_image(noise: Noise) -> None:
    clean = torch.zeros(3, 3, 8, 8)
    y = noise.apply(clean, image_rng(0, ["a", "b", "c"], "measurement"))
    assert y.dtype == torch.float32
    assert torch.equal(noise.apply(clean[:1], image_rng(0, ["b"], "measurement"))[0], y[1])
    assert not torch.equal(y[0], y[1])


def test_impulses_are_black_or_white_and_leave_the_rest() -> None:
    y = noisy(Impulse(probability=0.08), 0.3)
    struck = y != 0.3
    assert struck.double().mean().item() == pytest.approx(0.08, abs=0.003)
    assert (y[struck] > 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert set(y[struck].tolist()) == {-1.0, 1.0}


def test_no_noise_is_no_noise() -> None:
    clean = torch.rand(2, 3, 4, 4)
    rng = image_rng(0, ["a", "b"], "measurement")
    for noise in (Gaussian(noise_std=0.0), Impulse(probability=0.0), Speckle(speckle_std=0.0)):
        assert torch.equal(noise.apply(clean, rng), clean)

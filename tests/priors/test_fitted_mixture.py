"""A mixture fitted to images: what is fitted, what is written and read, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ipsolve.datasets import open_source
from ipsolve.priors import load_prior, prior_summary
from ipsolve.priors.mixtures.fitted_mixture import WEIGHTS
from ipsolve.priors.mixtures.ppca import fit_mixture
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ray_jobs.fit_mixture import main, require_finite

D, RANK, NOISE = 30, 2, 0.1


def two_clusters(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return n points around two planes, the means of these and their orthonormal axes (2, D, RANK)."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(2, D, RANK, generator=generator)).Q
    means = torch.randn(2, D, generator=generator)
    label = (torch.rand(n, generator=generator) < 0.3).long()
    scores = torch.randn(n, RANK, generator=generator) * torch.tensor([1.0, 0.5])
    x = means[label] + torch.einsum("ndr,nr->nd", axes[label], scores)
    return x + NOISE * torch.randn(n, D, generator=generator), means, axes


def test_the_fit_finds_clusters_directions_and_noise() -> None:
    x, means, axes = two_clusters(4000)
    mixture = fit_mixture(x, num_components=2, rank=RANK, iterations=3)
    order = torch.cdist(means.double(), mixture.means.double()).argmin(1)
    assert sorted(order.tolist()) == [0, 1]
    assert mixture.residual is not None
    assert mixture.bases is not None
    for k, found in enumerate(order.tolist()):
        torch.testing.assert_close(mixture.means[found].float(), means[k], atol=0.08, rtol=0)
        torch.testing.assert_close(mixture.variances[found].float(), torch.tensor([1.0, 0.25]), rtol=0.15, atol=0)
        torch.testing.assert_close(float(mixture.residual[found]), NOISE**2, rtol=0.05, atol=0)
        overlap = torch.linalg.svdvals(axes[k].T @ mixture.bases[found].float())
        assert overlap.min() > 0.99  # the same plane
    assert mixture.log_weights.exp()[order].tolist() == pytest.approx([0.7, 0.3], abs=0.03)


def test_rounds_separate_what_the_start_cannot() -> None:
    """Two planes through one point: k-means has nothing to go by, the densities have."""
    x, means, _ = two_clusters(3000)
    x = x - means[torch.cdist(x, means).argmin(1)]
    start, end = (fit_mixture(x, 2, RANK, rounds).log_density(x).mean() for rounds in (0, 10))
    assert end > start + 1


def test_the_job_writes_a_prior_whose_denoiser_is_that_of_its_density(tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    config = tmp_path / "fit.yaml"
    config.write_text(
        f"{{output: '{folder}', data: {{source: 'portraits:train', limit: 40}}, size: 16, num_components: 2, rank: 8}}"
    )
    assert main([str(config)]) == 0
    request = {"prior": "fitted_mixture", "path": str(folder)}
    assert prior_summary(request)[:2] == ((3, 16, 16), False)
    prior = load_prior(request)
    t = prior.schedule.at_ratio(0.5)
    x_t = ImageRng(torch.arange(3)).normal(3, 16, 16, dtype=torch.float64).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_density(x_t, t).sum(), x_t)  # type: ignore[attr-defined]
    tweedie = (x_t + t.sigma**2 * score) / t.alpha
    torch.testing.assert_close(prior.denoise(x_t, t), tweedie, rtol=1e-8, atol=1e-8)


def test_wrong_requests_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match=r"prior\.path: .* does not exist; python -m ray_jobs\.fit_mixture writes"):
        prior_summary({"prior": "fitted_mixture", "path": str(tmp_path)})
    (tmp_path / "mixture.json").write_text('{"image_shape": [3, 8, 8]}')
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(RequestError, match="is not a fitted mixture") as caught:
        load_prior({"prior": "fitted_mixture", "path": str(tmp_path)})
    assert "\n" not in str(caught.value)
    config = tmp_path / "fit.yaml"
    config.write_text("{output: out, data: {source: 'portraits:train', limit: 10}, size: 16, rank: 8}")
    assert main([str(config)]) == 2
    error = capsys.readouterr().err
    assert "data.limit: 10 images are too few" in error
    assert error.count("\n") == 1
    assert main([str(config), "output=s3://bucket/x", "rank=2", "num_components=1"]) == 2
    assert "output: must be a local folder" in capsys.readouterr().err
    assert not Path("s3:").exists()


def test_images_that_cannot_be_read_are_said_and_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = open_source("portraits:train", 16)
    for index in range(12):
        Image.fromarray(source.load(index, 16)).save(images / f"{index:02}.png")
    for name in ("03.png", "zz.png"):
        (images / name).write_bytes(b"not an image")
    config = tmp_path / "fit.yaml"
    folder = tmp_path / "out"
    config.write_text(f"{{output: '{folder}', data: {{source: '{images}'}}, size: 16, num_components: 1, rank: 5}}")
    assert main([str(config)]) == 0
    out = capsys.readouterr().out
    assert "11 images read in" in out
    assert "2 of 13 could not be read, the first one: " in out
    assert all(torch.isfinite(values).all() for values in load_file(folder / WEIGHTS).values())
    assert main([str(config), "rank=6"]) == 2  # enough files, too few images
    assert "data.source: 11 images are too few" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-9])
def test_a_residual_that_is_no_number_is_refused(value: float) -> None:
    mixture = fit_mixture(two_clusters(400)[0], num_components=2, rank=RANK, iterations=1)
    require_finite(mixture)
    with pytest.raises(RequestError, match=r"^rank: the residual of 1 of 2 components is NaN or Inf; allowed: [^\n]*$"):
        require_finite(replace(mixture, residual=torch.tensor([value, 0.1], dtype=torch.float64)))


def test_images_of_fewer_directions_than_the_rank_give_a_prior_or_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain colours have three directions: what is left is rounding, of either sign."""
    for seed in range(8):
        images, folder, config = (tmp_path / f"{name}{seed}" for name in ("images", "prior", "fit"))
        images.mkdir()
        for i, colour in enumerate(np.random.default_rng(seed).integers(0, 256, (40, 3)).tolist()):
            Image.new("RGB", (16, 16), tuple(colour)).save(images / f"{i:02}.png")
        config.write_text(f"{{output: '{folder}', data: {{source: '{images}'}}, size: 16, num_components: 1, rank: 8}}")
        code = main([str(config)])
        error = capsys.readouterr().err
        assert folder.exists() == (code == 0)
        if code:
            assert error.startswith("error: rank: the residual of 1 of 1 components is NaN or Inf")
            assert error.count("\n") == 1
        else:
            assert torch.isfinite(load_file(folder / WEIGHTS)["residual"].sqrt()).all()

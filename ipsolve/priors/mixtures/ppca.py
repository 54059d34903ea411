"""Fitting a Gaussian mixture to images: a prior that is learned in minutes and known in closed form."""

from __future__ import annotations

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture

KMEANS_SCORES = 32  # principal scores that the first assignment is made by


def fit_mixture(x: Tensor, num_components: int, rank: int, iterations: int, seed: int = 0) -> GaussianMixture:
    """Return a mixture of probabilistic principal component analysers fitted to ``x``.

    Tipping & Bishop 1999, "Mixtures of probabilistic principal component analyzers" (Neural Computation 11(2)), by
    classification EM: points are assigned to the component of highest density, components are refitted in closed
    form (eq. 3.12 and 3.13 of their "Probabilistic principal component analysis"): ``rank`` principal directions, and
    the mean of the other eigenvalues as the variance of all the rest.

    Args:
        x: (n, d) float32; n / num_components well above ``rank``.
        rank: directions that a component describes one by one.
        iterations: rounds of assigning and refitting, after a start by k-means on the principal scores.
        seed: of the start.

    Returns:
        The mixture, in float32; components that lost their points are left out.
    """
    torch.manual_seed(seed)  # of the randomised singular value decompositions
    centred = x - x.mean(0)
    scores = centred @ torch.svd_lowrank(centred, q=KMEANS_SCORES)[2]
    labels = torch.from_numpy(kmeans2(scores.numpy(), num_components, minit="++", seed=seed)[1]).long()
    mixture = _refit(x, labels, num_components, rank)
    for _ in range(iterations):
        labels = torch.cat([mixture.log_joint(part).argmax(1) for part in torch.split(x, 256)])
        mixture = _refit(x, labels, num_components, rank)
    return mixture


def _refit(x: Tensor, labels: Tensor, num_components: int, rank: int) -> GaussianMixture:
    groups = [x[labels == k] for k in range(num_components)]
    groups = [group for group in groups if len(group) > rank]
    analysers = [_analyse(group, rank) for group in groups]
    means, bases, variances, residual = (torch.stack(part).double() for part in zip(*analysers, strict=True))
    weights = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    return GaussianMixture((weights / weights.sum()).log(), means, variances, bases, residual)


def _analyse(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean (d,), principal directions (d, rank), their variances (rank,) and the residual variance."""
    mean = x.mean(0)
    centred = x - mean
    _, s, v = torch.svd_lowrank(centred, q=rank + 16, niter=3)
    variances = s[:rank].square() / len(x)
    residual = (centred.square().sum() / len(x) - variances.sum()) / (x.shape[1] - rank)
    return mean, v[:, :rank], variances, residual

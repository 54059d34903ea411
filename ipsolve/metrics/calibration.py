"""What several reconstructions of one image say of its uncertainty, and whether they are right.

All figures are of S samples of an image and its truth, (B, S, *image_shape) and (B, *image_shape), one for each image,
and do not depend in the mean on S: the truth is compared with the samples as one of S + 1 that a perfect sampler could
not tell apart. Mean values of a perfect sampler stand beside each.

Gneiting & Raftery 2007 (JASA 102) for scores, Ferro 2014 (QJRMS 140) for their fair forms, Hamill 2001 (Mon. Wea. Rev.
129) for ranks, Fortin et al. 2014 (J. Hydromet. 15) for spread and skill, Ilg et al. 2018 (ECCV, arXiv 1802.07095) for
sparsification.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of central intervals


def ranks(samples: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many samples of an entry lie below the truth, and how many not above it, both (B, *image_shape).

    Of a perfect sampler the rank is uniform on 0 .. S, ties being broken at random.
    """
    truth = x.unsqueeze(1)
    return (samples < truth).sum(1), (samples <= truth).sum(1)


def rank_histogram(samples: Tensor, x: Tensor) -> Tensor:
    """Return the share of an image's entries at each rank, (B, S + 1): 1 / (S + 1) each. Ties share theirs."""
    low, high = (rank.flatten(1) for rank in ranks(samples, x))
    bins = torch.arange(samples.shape[1] + 1, device=x.device)
    return torch.stack([((low <= k) & (k <= high)).double().div(high - low + 1).mean(1) for k in bins], 1)


def coverage(samples: Tensor, x: Tensor, level: float) -> Tensor:
    """Return the share of an image's entries in the central interval of the samples, (B,): ``level``.

    An entry of rank k stands for all of [k, k + 1] / (S + 1), and counts with the part of it that is in the interval:
    without that only levels that are a number of ranks would be unbiased.
    """
    share = _inside(*ranks(samples, x), samples.shape[1], (1 - level) / 2, (1 + level) / 2)
    return share.flatten(1).mean(1)


def ball_coverage(samples: Tensor, x: Tensor, level: float) -> Tensor:
    """Return whether the truth is in the ball about the samples' mean that holds ``level`` of them, (B,): ``level``.

    By the rank of its distance to the mean of all others, among the S + 1 distances to the mean of all others.
    """
    everything = torch.cat([x.unsqueeze(1), samples], 1).flatten(2)
    count = everything.shape[1]
    distances = (everything - everything.mean(1, keepdim=True)).norm(dim=2)  # of each to the others: count / S times it
    low = (distances[:, 1:] < distances[:, :1]).sum(1)
    high = (distances[:, 1:] <= distances[:, :1]).sum(1)
    return _inside(low, high, count - 1, 0.0, level)


def _inside(low: Tensor, high: Tensor, count: int, start: float, end: float) -> Tensor:
    """Return the part of [low, high + 1] / (count + 1) that lies in [start, end]."""
    first, last = low.double() / (count + 1), (high.double() + 1) / (count + 1)
    overlap = torch.minimum(last, last.new_tensor(end)) - torch.maximum(first, first.new_tensor(start))
    return overlap.clamp_min(0) / (last - first)


def crps(samples: Tensor, x: Tensor) -> Tensor:
    """Return the fair continuous ranked probability score, mean over entries, (B,), in units of the images.

    mean_s |x_s - x| - sum_{s < t} |x_s - x_t| / (S (S - 1)): at its least for a perfect sampler, not 0.
    """
    count = samples.shape[1]
    error = (samples - x.unsqueeze(1)).abs().mean(1)
    ordered = samples.sort(1).values
    # sum over pairs of |x_s - x_t| is that of (2 k - S + 1) x_(k), k from 0
    weights = 2 * torch.arange(count, device=x.device, dtype=x.dtype) - count + 1
    pairs = torch.einsum("s,bs...->b...", weights, ordered)
    return (error - pairs / (count * (count - 1))).flatten(1).mean(1)


def energy_score(samples: Tensor, x: Tensor) -> Tensor:
    """Return the fair energy score with the root mean square as norm, (B,): the CRPS of whole images."""
    count, flat = samples.shape[1], samples.flatten(2)
    scale = math.sqrt(flat.shape[2])
    error: Tensor = (flat - x.flatten(1).unsqueeze(1)).norm(dim=2).mean(1)
    pairs = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2)) / 2
    return (error - pairs / (count * (count - 1))) / scale


def spread(samples: Tensor) -> Tensor:
    """Return the mean over entries of the unbiased variance of the samples, (B,)."""
    return samples.var(1, correction=1).flatten(1).mean(1)


def skill(samples: Tensor, x: Tensor) -> Tensor:
    """Return what the spread of a perfect sampler is, (B,): S / (S + 1) times the squared error of the mean."""
    count = samples.shape[1]
    return count / (count + 1) * (samples.mean(1) - x).square().flatten(1).mean(1)


def sparsification_error(samples: Tensor, x: Tensor, steps: int = 20) -> Tensor:
    """Return how much is lost by trusting the standard deviation to say where the error is, (B,): 0 at the best.

    The entries with the largest std are left out, ever more of them, and the root mean squared error of the rest is
    compared with leaving out those of the largest error; the area between both curves, over the error of all. A std
    that says nothing has the area of a constant above the second curve.
    """
    error = (samples.mean(1) - x).square().flatten(1)
    std = samples.var(1, correction=1).flatten(1)
    whole = error.mean(1).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    kept = torch.linspace(1.0, 1 / steps, steps, device=x.device).mul(error.shape[1]).round().long().clamp_min(1)
    curves = []
    for key in (std, error):
        order = key.argsort(1)
        means = error.gather(1, order).cumsum(1)[:, kept - 1] / kept
        curves.append(means.clamp_min(0).sqrt())
    return (curves[0] - curves[1]).mean(1) / whole

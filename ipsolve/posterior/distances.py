"""How far the samples of a solver are from a posterior: from exact samples of it, and from its closed form.

=====================  ===============================================================================================
sliced_wasserstein_p   over random directions, p = 1 and 2; units of x
mmd                    squared maximum mean discrepancy to the reference samples (Gretton et al. 2012), unbiased
ksd                    squared kernel Stein discrepancy with the exact score (Gorham & Mackey 2017), unbiased
mean_error             ||mean of samples - exact mean||; units of x
covariance_error       ||covariance of samples - exact||_F / ||exact||_F
coverage_L             share of the reference in the central L % interval of the samples, over random directions
=====================  ===============================================================================================

``mmd`` and ``ksd`` average to 0 over exact samples and may be negative; the others of exact samples are above 0, and
what is reached in practice is the figure of a second exact sample set. The kernels of ``mmd`` measure lengths in the
median distance between reference samples. ``ksd`` is taken after whitening by the mean covariance of the components of
the posterior, so that no direction counts for more because y determines it better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ipsolve.posterior.kernels import (
    gaussian_kernel,
    median_squared_distance,
    off_diagonal_mean,
    squared_distances,
    stein_kernel,
)
from ipsolve.posterior.sliced import SlicedReference
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture


class PosteriorReference:
    """A posterior with everything about it that comparisons share, computed once.

    Args:
        posterior: the closed form.
        reference: exact samples, (M, d), M >= 2.
        num_slices: directions of the sliced figures.
        seed: of the directions.
    """

    def __init__(self, posterior: GaussianMixture, reference: Tensor, num_slices: int = 10_000, seed: int = 0) -> None:
        self.posterior, self.reference = posterior, reference.double()
        self._sliced = SlicedReference(reference, num_slices, seed)
        self._scale = median_squared_distance(self.reference)
        own = gaussian_kernel(squared_distances(self.reference, self.reference), self._scale)
        self._self_similarity = off_diagonal_mean(own)
        self._mean, self._covariance = posterior.mean(), posterior.covariance()
        self._pooled = posterior.pooled().components

    def compare(self, samples: Tensor) -> dict[str, float]:
        """Return the figures of ``samples``, (N, d), N >= 2; NaN where the samples are."""
        x = samples.double()
        return {
            **self._sliced.compare(x),
            "mmd": self._maximum_mean_discrepancy(x),
            "ksd": self._kernel_stein_discrepancy(x),
            "mean_error": float((x.mean(0) - self._mean).norm()),
            "covariance_error": float((x.T.cov() - self._covariance).norm() / self._covariance.norm()),
        }

    def _kernel_stein_discrepancy(self, x: Tensor) -> float:
        z = self._pooled.products(torch.rsqrt, x - self._mean, 0)
        return off_diagonal_mean(stein_kernel(z, self._pooled.products(torch.sqrt, self.posterior.score(x), 0)))

    def _maximum_mean_discrepancy(self, x: Tensor) -> float:
        within = off_diagonal_mean(gaussian_kernel(squared_distances(x, x), self._scale))
        across = float(gaussian_kernel(squared_distances(x, self.reference), self._scale).mean())
        return within + self._self_similarity - 2 * across


def compare(
    samples: Tensor, reference: Tensor, posterior: GaussianMixture, num_slices: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Return the figures of one sample set, (N, d), against exact samples (M, d).

    Use a :class:`PosteriorReference` to compare several with the same.
    """
    return PosteriorReference(posterior, reference, num_slices, seed).compare(samples)

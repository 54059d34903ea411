"""Gaussian mixtures with closed-form diffusion, denoising and linear-Gaussian posteriors, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ipsolve.randomness import ImageRng


@dataclass(frozen=True)
class GaussianMixture:
    """p(x) = sum_k w_k N(x; mu_k, Q_k diag(v_k) Q_k^T) on vectors of dimension d.

    Attributes:
        log_weights: (K,), normalised.
        means: (K, d).
        variances: v_k, (K, d), or (K, 1) for isotropic components.
        bases: Q_k, (K, d, d) orthogonal, or None for the identity.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    bases: Tensor | None = None

    @classmethod
    def isotropic(cls, weights: Tensor, means: Tensor, std: Tensor | float) -> GaussianMixture:
        """Return the mixture with covariances std^2 I.

        Args:
            weights: (K,), positive, normalised here.
            means: (K, d).
            std: shared, or one per component (K,).
        """
        means = means.double()
        std = torch.as_tensor(std, dtype=torch.float64, device=means.device).expand(len(means))
        return cls(_normalise(weights.to(means).log()), means, std.square()[:, None])

    @classmethod
    def full(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """Return the mixture with any covariances, (K, d, d) symmetric positive semi-definite."""
        variances, bases = torch.linalg.eigh(covariances.double())
        means = means.double()
        return cls(_normalise(weights.to(means).log()), means, variances.clamp(min=0), bases)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def covariances(self) -> Tensor:
        """Return the covariances of the components, (K, d, d)."""
        if self.bases is None:
            return torch.diag_embed(self.variances.expand_as(self.means))
        return (self.bases * self.variances[:, None]) @ self.bases.mT

    def diffused(self, alpha: float, sigma: float) -> GaussianMixture:
        """Return the density of alpha x + sigma n, n ~ N(0, I)."""
        return GaussianMixture(self.log_weights, alpha * self.means, alpha**2 * self.variances + sigma**2, self.bases)

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log(w_k N(x; k)), (B, d) -> (B, K)."""
        c = self._to_basis(x.double()[:, None] - self.means)
        variances = self.variances.expand_as(self.means)
        quadratic = (c.square() / variances).sum(-1)
        return self.log_weights - 0.5 * (quadratic + (2 * math.pi * variances).log().sum(-1))

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x), (B, d) -> (B,)."""
        return self.log_joint(x).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return P(k | x), (B, d) -> (B, K)."""
        return self.log_joint(x).softmax(1)

    def score(self, x: Tensor) -> Tensor:
        """Return grad log p(x), (B, d) -> (B, d)."""
        x = x.double()
        c = self._to_basis(x[:, None] - self.means)
        return -torch.einsum("bk,bkd->bd", self.responsibilities(x), self._from_basis(c / self.variances))

    def mean(self) -> Tensor:
        """Return the mean, (d,)."""
        return self.log_weights.exp() @ self.means

    def sample(self, rng: ImageRng) -> Tensor:
        """Draw one x per stream of ``rng``, (B, d)."""
        u = rng.uniform(1, dtype=torch.float64)
        k = torch.searchsorted(self.log_weights.exp().cumsum(0), u[:, 0]).clamp(max=len(self.means) - 1)
        c = self.variances[k].sqrt() * rng.normal(self.dimension, dtype=torch.float64)
        return self.means[k] + (c if self.bases is None else torch.einsum("bij,bj->bi", self.bases[k], c))

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return E[x_0 | x_t = alpha x_0 + sigma eps], (B, d) -> (B, d)."""
        means, responsibilities = self._component_posteriors(x_t, alpha, sigma)
        return torch.einsum("bk,bkd->bd", responsibilities, means)

    def denoiser_covariance(self, x_t: Tensor, v: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return Cov[x_0 | x_t] v, (B, d), (B, d) -> (B, d): within components plus between their means."""
        means, responsibilities = self._component_posteriors(x_t, alpha, sigma)
        v = v.double()
        shrink = self.variances * sigma**2 / (alpha**2 * self.variances + sigma**2)
        within = self._from_basis(shrink * self._to_basis(v[:, None].expand_as(means)))
        offset = means - torch.einsum("bk,bkd->bd", responsibilities, means)[:, None]
        between = offset * (offset * v[:, None]).sum(-1, keepdim=True)
        return torch.einsum("bk,bkd->bd", responsibilities, within + between)

    def posterior(self, matrix: Tensor, y: Tensor, noise_std: float) -> GaussianMixture:
        """Return p(x | y) for y = matrix x + noise_std n, n ~ N(0, I): again a mixture.

        Each component is conditioned by itself and weighted by the evidence it gives y (Bishop 2006, eq. 2.113-2.117).

        Args:
            matrix: (m, d).
            y: (m,), one measurement.
            noise_std: above 0.
        """
        a, y = matrix.double(), y.double()
        cross = a @ self.covariances()  # (K, m, d)
        evidence = cross @ a.T + noise_std**2 * torch.eye(len(y), dtype=torch.float64, device=a.device)
        factor = torch.linalg.cholesky(evidence)
        residual = (y - self.means @ a.T)[..., None]
        means = self.means + (cross.mT @ torch.cholesky_solve(residual, factor))[..., 0]
        half = torch.linalg.solve_triangular(factor, cross, upper=False)
        white = torch.linalg.solve_triangular(factor, residual, upper=False)[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_evidence = -0.5 * (white.square().sum(-1) + log_det + len(y) * math.log(2 * math.pi))
        variances, bases = torch.linalg.eigh(self.covariances() - half.mT @ half)
        # rounding can push the smallest variances of strongly determined directions below 0
        floor = torch.finfo(torch.float64).eps * variances.amax(-1, keepdim=True)
        return GaussianMixture(_normalise(self.log_weights + log_evidence), means, variances.maximum(floor), bases)

    def _component_posteriors(self, x_t: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """Return E[x_0 | x_t, k], (B, K, d), and P(k | x_t), (B, K)."""
        x_t = x_t.double()
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        c = self._to_basis(x_t[:, None] - alpha * self.means)
        return self.means + self._from_basis(gain * c), self.diffused(alpha, sigma).responsibilities(x_t)

    def _to_basis(self, x: Tensor) -> Tensor:
        return x if self.bases is None else torch.einsum("kij,bki->bkj", self.bases, x)

    def _from_basis(self, c: Tensor) -> Tensor:
        return c if self.bases is None else torch.einsum("kij,bkj->bki", self.bases, c)


def _normalise(log_weights: Tensor) -> Tensor:
    return log_weights - log_weights.logsumexp(0)

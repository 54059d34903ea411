"""Gaussian mixtures with closed-form diffusion, denoising and linear-Gaussian posteriors, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ipsolve.priors.mixtures.gaussian_components import GaussianComponents, Spectral
from ipsolve.priors.mixtures.linear_gaussian import condition, condition_isotropic
from ipsolve.randomness import ImageRng


@dataclass(frozen=True)
class GaussianMixture:
    """p(x) = sum_k w_k N(x; mu_k, C_k) on vectors of dimension d, C_k = Q_k diag(v_k) Q_k^T + rho_k (I - Q_k Q_k^T).

    Work and memory are those of two matrix products with each Q_k, and of one with the means where components are
    isotropic or share their Q.

    Attributes:
        log_weights: (K,), normalised.
        means: mu_k, (K, d).
        variances: v_k, (K, r), or (K, 1) for isotropic components.
        bases: Q_k with orthonormal columns, (K, d, r), or (1, d, r) if shared; None for isotropic components.
        residual: rho_k, (K,); None for isotropic components and where Q_k is square.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    bases: Tensor | None = None
    residual: Tensor | None = None

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
        return cls(weights.to(means).log().log_softmax(0), means, std.square()[:, None])

    @classmethod
    def full(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """Return the mixture with any covariances, (K, d, d) symmetric positive semi-definite."""
        variances, bases = torch.linalg.eigh(covariances.double())
        means = means.double()
        return cls(weights.to(means).log().log_softmax(0), means, variances.clamp(min=0), bases)

    @cached_property
    def components(self) -> GaussianComponents:
        """The components without their weights."""
        return GaussianComponents(self.means, self.variances, self.bases, self.residual)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def covariances(self) -> Tensor:
        """Return the covariances of the components, (K, d, d)."""
        identity = torch.eye(self.dimension).to(self.means)
        return torch.stack([self.components.products(lambda c: c, identity, k) for k in range(len(self.means))])

    def mean(self) -> Tensor:
        """Return the mean, (d,)."""
        return self.log_weights.exp() @ self.means

    def covariance(self) -> Tensor:
        """Return the covariance, (d, d): within components plus between their means."""
        weights = self.log_weights.exp()
        identity = torch.eye(self.dimension).to(self.means)
        within = self.components.mixed_products(lambda c: c, weights.expand(self.dimension, -1), identity)
        offset = self.means - self.mean()
        return within + (weights[:, None] * offset).T @ offset

    def pooled(self) -> GaussianMixture:
        """Return one Gaussian with the mean of the mixture and the mean covariance of its components."""
        weights, one = self.log_weights.exp(), torch.zeros_like(self.log_weights[:1])
        if self.bases is None or len(self.bases) == 1:
            residual = None if self.residual is None else (weights @ self.residual)[None]
            return GaussianMixture(one, self.mean()[None], (weights @ self.variances)[None], self.bases, residual)
        covariance = torch.einsum("k,kij->ij", weights, self.covariances())
        return GaussianMixture.full(one.exp(), self.mean()[None], covariance[None])

    def diffused(self, alpha: float, sigma: float) -> GaussianMixture:
        """Return the density of alpha x + sigma n, n ~ N(0, I)."""
        variances = alpha**2 * self.variances + sigma**2
        residual = None if self.residual is None else alpha**2 * self.residual + sigma**2
        return GaussianMixture(self.log_weights, alpha * self.means, variances, self.bases, residual)

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log(w_k N(x; k)), (B, d) -> (B, K)."""
        return self.log_weights + self.components.log_density(x.double())

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x), (B, d) -> (B,)."""
        return self.log_joint(x).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return P(k | x), (B, d) -> (B, K)."""
        return self.log_joint(x).softmax(1)

    def score(self, x: Tensor) -> Tensor:
        """Return grad log p(x), (B, d) -> (B, d)."""
        return -self.components.mixed_offsets(torch.reciprocal, self.responsibilities(x), x.double())

    def sample(self, rng: ImageRng) -> Tensor:
        """Draw one x per stream of ``rng``, (B, d)."""
        u = rng.uniform(1, dtype=torch.float64)
        k = torch.searchsorted(self.log_weights.exp().cumsum(0), u[:, 0]).clamp(max=len(self.means) - 1)
        x, noise = self.means[k], rng.normal(self.dimension, dtype=torch.float64)
        for component in range(len(self.means)):
            rows = (k == component).nonzero()[:, 0]
            x[rows] += self.components.products(torch.sqrt, noise[rows], component)
        return x

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return E[x_0 | x_t = alpha x_0 + sigma eps], (B, d) -> (B, d)."""
        x_t = x_t.double()
        return self._mixed_estimates(self._diffused_responsibilities(x_t, alpha, sigma), x_t, alpha, sigma)

    def denoiser_covariance(self, x_t: Tensor, v: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return Cov[x_0 | x_t] v, (B, d), (B, d) -> (B, d): within components plus between their means."""
        x_t, v = x_t.double(), v.double()
        r = self._diffused_responsibilities(x_t, alpha, sigma)
        within = self.components.mixed_products(lambda c: c * sigma**2 / (alpha**2 * c + sigma**2), r, v)
        # sum_k r_k m_k (m_k - m)^T v with the estimates m_k of the components and m of the mixture
        along = v @ self.means.T + self.components.inner_products(_gain(alpha, sigma), v, x_t, alpha)
        between = r * (along - (r * along).sum(1, keepdim=True))
        return within + self._mixed_estimates(between, x_t, alpha, sigma)

    def posterior(self, matrix: Tensor, y: Tensor, noise_std: float) -> GaussianMixture:
        """Return p(x | y) for y = matrix x + noise_std n, n ~ N(0, I): again a mixture.

        Each component is conditioned by itself and weighted by the evidence it gives y. The work is that of one SVD
        of ``matrix`` for isotropic components, and otherwise of K eigendecompositions of size min(d, r + m).

        Args:
            matrix: (m, d).
            y: (m,), one measurement.
            noise_std: above 0.
        """
        a, y = matrix.double(), y.double()
        residual = self.components.outside
        if self.bases is None:
            means, variances, basis, log_evidence = condition_isotropic(
                self.means, self.variances[:, 0], a, y, noise_std
            )
            bases = basis[None]
        else:
            # everything happens in the span of Q_k and A^T; across it a component stays as it is
            span = self.components.span(a)
            before = (self.means[:, None] @ span)[:, 0]
            within = torch.stack([self.components.products(lambda c: c, w.T, k) @ w for k, w in enumerate(span)])
            after, covariances, log_evidence = condition(before, within, a @ span, y, noise_std)
            means = self.means + (span @ (after - before)[..., None])[..., 0]
            variances, axes = torch.linalg.eigh(covariances)
            # rounding can push the smallest variances of strongly determined directions below 0
            variances = variances.maximum(torch.finfo(torch.float64).eps * variances.amax(-1, keepdim=True))
            bases = span @ axes
        if bases.shape[2] == self.dimension:
            residual = None
        return GaussianMixture((self.log_weights + log_evidence).log_softmax(0), means, variances, bases, residual)

    def _diffused_responsibilities(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return P(k | x_t), (B, K)."""
        return (self.log_weights + self.components.log_density(x_t, alpha, sigma)).softmax(1)

    def _mixed_estimates(self, weights: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """Return sum_k weights_k E[x_0 | x_t, k], (B, K), (B, d) -> (B, d)."""
        return weights @ self.means + self.components.mixed_offsets(_gain(alpha, sigma), weights, x_t, alpha)


def _gain(alpha: float, sigma: float) -> Spectral:
    """Return g with E[x_0 | x_t, k] = mu_k + g(C_k) (x_t - alpha mu_k)."""
    return lambda variance: alpha * variance / (alpha**2 * variance + sigma**2)

"""The linear algebra of several Gaussians at once, for mixtures, by matrix products and without (B, K, d) tensors.

The covariances C_k = Q_k diag(v_k) Q_k^T + rho_k (I - Q_k Q_k^T) are known by their eigenvectors, and so is every
function of them that diffusion needs (inverse, gain, conditional covariance, square root):

    f(C_k) x = f(rho_k) x + Q_k diag(f(v_k) - f(rho_k)) Q_k^T x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Spectral = Callable[[Tensor], Tensor]  # a function of the eigenvalues of a covariance, elementwise


class GaussianComponents:
    """K Gaussians with means mu_k and covariances C_k on vectors of dimension d.

    Args:
        means: mu_k, (K, d).
        variances: v_k, (K, r), or (K, 1) if isotropic.
        bases: Q_k with orthonormal columns, (K, d, r), or (1, d, r) if shared; None for isotropic components.
        residual: rho_k, (K,); None where Q_k is square.
    """

    def __init__(self, means: Tensor, variances: Tensor, bases: Tensor | None, residual: Tensor | None) -> None:
        if bases is None and variances.shape[1] != 1:
            raise ValueError("components without bases are isotropic: variances must be (K, 1)")
        self.means, self.bases = means, bases
        self.dimension = means.shape[1]
        self.inside = None if bases is None else variances
        self.outside = variances[:, 0] if bases is None else residual
        # squared distances come from inner products; taken about a common centre, less of them cancels
        self._centre = means.mean(0)
        self._offsets = means - self._centre
        self._offset_coordinates = self._project(self._offsets[:, None])

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """Return log N(x; alpha mu_k, alpha^2 C_k + sigma^2 I), (B, d) -> (B, K)."""
        x = x - alpha * self._centre
        p = self._coordinates(x, alpha)
        total = torch.full_like(self.means[:, 0], self.dimension * math.log(2 * math.pi))
        rank = 0
        if p is not None and self.inside is not None:
            v = alpha**2 * self.inside + sigma**2
            total, rank = total + torch.einsum("kbr,kr->bk", p.square(), 1 / v) + v.log().sum(1), v.shape[1]
        if self.outside is not None:
            rho = alpha**2 * self.outside + sigma**2
            squared = x.square().sum(1, keepdim=True) - 2 * alpha * x @ self._offsets.T
            squared = squared + alpha**2 * self._offsets.square().sum(1)
            squared = squared if p is None else squared - p.square().sum(2).T
            total = total + squared / rho + (self.dimension - rank) * rho.log()
        return -0.5 * total

    def mixed_offsets(self, f: Spectral, weights: Tensor, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Return sum_k weights_k f(C_k) (x - alpha mu_k), (B, K), (B, d) -> (B, d)."""
        x = x - alpha * self._centre
        out = torch.zeros_like(x)
        if self.outside is not None:
            scaled = weights * f(self.outside)
            out = scaled.sum(1, keepdim=True) * x - alpha * scaled @ self._offsets
        return self._add_inside(out, f, weights, self._coordinates(x, alpha))

    def mixed_products(self, f: Spectral, weights: Tensor, v: Tensor) -> Tensor:
        """Return sum_k weights_k f(C_k) v, (B, K), (B, d) -> (B, d)."""
        out = torch.zeros_like(v) if self.outside is None else (weights @ f(self.outside))[:, None] * v
        return self._add_inside(out, f, weights, self._project(v))

    def inner_products(self, f: Spectral, v: Tensor, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Return v^T f(C_k) (x - alpha mu_k), (B, d), (B, d) -> (B, K)."""
        x = x - alpha * self._centre
        out = torch.zeros(len(x), len(self.means)).to(x)
        if self.outside is not None:
            out = ((v * x).sum(1, keepdim=True) - alpha * v @ self._offsets.T) * f(self.outside)
        p, q = self._coordinates(x, alpha), self._project(v)
        return out if p is None or q is None else out + torch.einsum("kbr,kr->bk", p * q, self._difference(f))

    def products(self, f: Spectral, v: Tensor, k: int) -> Tensor:
        """Return f(C_k) v of one component, (B, d) -> (B, d)."""
        out = torch.zeros_like(v) if self.outside is None else f(self.outside[k]) * v
        if self.bases is None:
            return out
        basis = self.bases[k if len(self.bases) > 1 else 0]
        return out + (v @ basis * self._difference(f)[k]) @ basis.T

    def span(self, a: Tensor) -> Tensor:
        """Return orthonormal bases of the span of Q_k and the rows of ``a`` (m, d), (K, d, min(d, r + m))."""
        assert self.bases is not None
        bases = self.bases.expand(len(self.means), -1, -1)
        if self.outside is None:
            return bases
        joint: Tensor = torch.linalg.qr(torch.cat([bases, a.T.expand(len(bases), -1, -1)], 2)).Q
        return joint

    def _difference(self, f: Spectral) -> Tensor:
        """Return f(v_k) - f(rho_k), (K, r)."""
        assert self.inside is not None
        return f(self.inside) if self.outside is None else f(self.inside) - f(self.outside)[:, None]

    def _project(self, v: Tensor) -> Tensor | None:
        """Return Q_k^T v, (K or 1, B, r), None for isotropic components."""
        return None if self.bases is None else torch.matmul(v, self.bases)

    def _coordinates(self, x: Tensor, alpha: float) -> Tensor | None:
        """Return Q_k^T (x - alpha offset_k), (K, B, r), None for isotropic components."""
        q = self._project(x)
        return None if q is None or self._offset_coordinates is None else q - alpha * self._offset_coordinates

    def _add_inside(self, out: Tensor, f: Spectral, weights: Tensor, coordinates: Tensor | None) -> Tensor:
        """Return out + sum_k weights_k Q_k diag(f(v_k) - f(rho_k)) coordinates_k, (B, d)."""
        if coordinates is None or self.bases is None:
            return out
        scaled = weights.T[..., None] * self._difference(f)[:, None] * coordinates
        if len(self.bases) == 1:
            return out + scaled.sum(0) @ self.bases[0].T
        return torch.addbmm(out, scaled, self.bases.mT)

"""Gaussians conditioned on a linear measurement y = A x + noise_std n (Bishop 2006, eq. 2.113-2.117).

For components N(mu_k, C_k):  S_k = A C_k A^T + noise_std^2 I,  mean mu_k + C_k A^T S_k^-1 (y - A mu_k),
covariance C_k - C_k A^T S_k^-1 A C_k,  evidence N(y; A mu_k, S_k).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def condition(
    means: Tensor, covariances: Tensor, a: Tensor, y: Tensor, noise_std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Condition K Gaussians of any covariance.

    Args:
        means: (K, d).
        covariances: (K, d, d).
        a: (m, d), or (K, m, d) with one per component.
        y: (m,).
        noise_std: above 0.

    Returns:
        means (K, d), covariances (K, d, d), and the log-evidence of each component (K,).
    """
    cross = a @ covariances  # (K, m, d)
    evidence = cross @ a.mT + noise_std**2 * torch.eye(len(y)).to(a)
    factor = torch.linalg.cholesky(evidence)
    residual = (y - (a @ means[..., None])[..., 0])[..., None]
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    white = torch.linalg.solve_triangular(factor, residual, upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_evidence = -0.5 * (white.square().sum((1, 2)) + log_det + len(y) * math.log(2 * math.pi))
    return means + (half.mT @ white)[..., 0], covariances - half.mT @ half, log_evidence


def condition_isotropic(
    means: Tensor, variances: Tensor, a: Tensor, y: Tensor, noise_std: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Condition K Gaussians of covariance v_k I, in the singular directions of A = U diag(s) V^T, which they share.

    Args:
        means: (K, d).
        variances: v_k, (K,).
        a, y, noise_std: as for :func:`condition`.

    Returns:
        means (K, d), the variances (K, r) along V and V itself (d, r), r = min(m, d); across V the variance stays
        v_k; and the log-evidence (K,) up to a constant that the components share.
    """
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    evidence = variances[:, None] * s.square() + noise_std**2  # (K, r)
    residual = y @ u - s * (means @ vt.T)
    log_evidence = -0.5 * (residual.square() / evidence + evidence.log()).sum(1)
    gain = variances[:, None] * s / evidence
    return means + (gain * residual) @ vt, variances[:, None] * noise_std**2 / evidence, vt.T, log_evidence

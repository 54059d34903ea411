"""What solvers do in the singular directions of A = U diag(s) V^T."""

from __future__ import annotations

from torch import Tensor

from ipsolve.operators.base import SpectralOperator


def set_coordinates(operator: SpectralOperator, x: Tensor, c: Tensor) -> Tensor:
    """Return x with its spectral coordinates V^T x replaced by ``c``; what V does not span stays as it is.

    Args:
        x: (B, *image_shape).
        c: the coordinates of :meth:`SpectralOperator.to_spectral`, complex for Fourier operators.
    """
    return x + operator.from_spectral(c - operator.to_spectral(x))


def inverse_singular_values(operator: SpectralOperator) -> Tensor:
    """Return 1 / s, and 0 in the directions that A does not see (below its ``rank_tolerance``)."""
    s = operator.singular_values()
    seen = s > operator.rank_tolerance * operator.largest_singular_value()
    return s.where(seen, 1.0).reciprocal().where(seen, 0.0)

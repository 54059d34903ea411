"""Likelihood scores written down."""

from ipsolve.solvers.explicit import dmps, score_ald  # noqa: F401

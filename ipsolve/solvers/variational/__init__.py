"""Optimisation with a denoising regulariser."""

from ipsolve.solvers.variational import red_diff, rlsd  # noqa: F401

"""Particles."""

from ipsolve.solvers.monte_carlo import fps, mcgdiff, smcdiff, tds  # noqa: F401

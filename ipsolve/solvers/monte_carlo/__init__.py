"""Particles."""

from ipsolve.solvers.monte_carlo import fk_steering, fps, mcgdiff, smcdiff, tds  # noqa: F401

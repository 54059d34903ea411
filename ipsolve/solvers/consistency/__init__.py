"""Hard data consistency at some steps."""

from ipsolve.solvers.consistency import nullspace_resample, resample  # noqa: F401

"""Published solvers, one file each; importing a file registers it."""

from ipsolve.solvers import ddnm, latent_dps, nullspace_resample, pseudo_inverse, psld, resample, tv  # noqa: F401
from ipsolve.solvers.base import SOLVERS, Requirements, Solver, parse_solver

__all__ = ["SOLVERS", "Requirements", "Solver", "parse_solver"]

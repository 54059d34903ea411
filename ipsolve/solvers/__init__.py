"""Published solvers, one file each in the folder of its family; importing a file registers it."""

from ipsolve.solvers import (  # noqa: F401
    classical,
    consistency,
    decoupled,
    explicit,
    few_step,
    flow,
    guidance,
    monte_carlo,
    plug_in,
    projection,
    variational,
)
from ipsolve.solvers.base import SOLVERS, Cost, Solver, parse_solver

__all__ = ["SOLVERS", "Cost", "Solver", "parse_solver"]

"""Without a diffusion prior."""

from ipsolve.solvers.classical import pseudo_inverse, tv  # noqa: F401

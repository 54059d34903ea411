"""Denoising and data fitting in turns."""

from ipsolve.solvers.decoupled import daps, dcdp, diffpir, fast_dips, sitcom  # noqa: F401

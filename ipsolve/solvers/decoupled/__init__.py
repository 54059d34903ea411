"""Denoising and data fitting in turns."""

from ipsolve.solvers.decoupled import daps, dcdp, diffpir, sitcom  # noqa: F401

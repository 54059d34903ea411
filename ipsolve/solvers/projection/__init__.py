"""The measured part of a state or estimate is replaced."""

from ipsolve.solvers.projection import ccdf, ddnm, ddrm, dds, ilvr, score_sde, snips, treg  # noqa: F401

"""Made for flows, z_t = (1 - t) z_0 + t z_1, and run on any prior seen as one."""

from ipsolve.solvers.flow import flair, flowchef, flowdps  # noqa: F401

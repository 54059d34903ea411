"""The whole reverse process as a function that is plugged into a fit."""

from ipsolve.solvers.plug_in import dmplug  # noqa: F401

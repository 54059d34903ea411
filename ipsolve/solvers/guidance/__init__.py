"""Gradients of the data term guide the sampler."""

from ipsolve.solvers.guidance import dps, dsg, latent_dps, mcg, mmps, mpgd, p2l, pigdm, psld, stsl  # noqa: F401

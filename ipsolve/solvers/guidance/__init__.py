"""Gradients of the data term guide the sampler."""

from ipsolve.solvers.guidance import dmap, dpps, dps, dsg, gauss_newton_dps, latent_dps, mcg, mmps, mpgd, pigdm, psld  # noqa: F401

"""Gradients of the data term guide the sampler."""

from ipsolve.solvers.guidance import dmap, dpps, dps, dsg, latent_dps, mcg, mmps, mpgd, pigdm, psld  # noqa: F401

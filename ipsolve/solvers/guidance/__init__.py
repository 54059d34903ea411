"""Gradients of the data term guide the sampler."""

from ipsolve.solvers.guidance import (  # noqa: F401
    dmap,
    dpps,
    dps,
    dsg,
    gauss_newton_dps,
    latent_dps,
    mcg,
    mmps,
    mpgd,
    optimal_covariance,
    p2l,
    pigdm,
    psld,
    stsl,
)

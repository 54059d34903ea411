"""Methods that are older than diffusion priors: without one, or with one in the place of another."""

from ipsolve.solvers.classical import admm_pnp, csgm, deep_image_prior, pseudo_inverse, tv  # noqa: F401

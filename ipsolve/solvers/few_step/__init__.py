"""A handful of calls, of a map from noise to images: a consistency model, or a denoiser in its place."""

from ipsolve.solvers.few_step import latino, pnp_cm  # noqa: F401

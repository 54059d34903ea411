"""ipsolve: solvers of inverse problems with (latent) diffusion priors, and the ground they are measured on.

This package is pure torch: it imports neither Ray nor MLflow. The jobs that run it on a cluster live in
``ray_jobs`` and ``tuning``.
"""

__version__ = "0.1.0"

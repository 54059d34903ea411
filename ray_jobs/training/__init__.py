"""The parts of ``ray_jobs.train_prior``: a latent diffusion prior from a source of images."""

"""What ``ray job submit`` runs: each module is a command, ``python -m ray_jobs.<name>``."""

"""Priors in closed form."""

"""Priors that are networks."""

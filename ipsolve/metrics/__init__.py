"""Metrics: of each image (METRICS), of sets of images (SET_METRICS), and the networks behind the latter (FEATURES)."""

from ipsolve.metrics import distances, features, fidelity, perceptual
from ipsolve.metrics.asked import USUAL, Asked, Entry, headline_of, names_of
from ipsolve.metrics.base import FEATURES, METRICS, SET_METRICS, FeatureExtractor, Metric, SetMetric, Weights

__all__ = [
    "FEATURES",
    "METRICS",
    "SET_METRICS",
    "USUAL",
    "Asked",
    "Entry",
    "FeatureExtractor",
    "Metric",
    "SetMetric",
    "Weights",
    "distances",
    "features",
    "fidelity",
    "headline_of",
    "names_of",
    "perceptual",
]

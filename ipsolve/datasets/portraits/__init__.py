"""Procedural portraits: a seeded, unlimited data set of drawn faces at any resolution, computed on the fly."""

from ipsolve.datasets.portraits.render import render
from ipsolve.datasets.portraits.splits import SPLITS, Portraits

__all__ = ["SPLITS", "Portraits", "render"]

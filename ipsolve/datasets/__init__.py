"""Where images come from: the procedural portraits, files of many kinds, Hugging Face data sets."""

from ipsolve.datasets.base import ImageError, Source
from ipsolve.datasets.opening import open_source

__all__ = ["ImageError", "Source", "open_source"]

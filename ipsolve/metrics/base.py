"""What a metric is: of one image against its truth, or of a set of images against a set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.requests.registry import Registry

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True, config={"extra": "forbid"})
class Weights:
    """Where the weights of the reference networks are; the section ``weights`` of a configuration.

    A path left out means the place in which the network's own library looks. Files are used only if their
    SHA-256 is the published one, or ``inception_sha256`` if that is given (a TorchScript file is code).
    """

    lpips_net: Literal["alex", "vgg"] = "alex"
    lpips: str | None = None
    inception: str | None = None
    inception_sha256: str | None = None


class Metric(ABC):
    """A distance or similarity of each image to its truth."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()

    def unavailable(self) -> str | None:
        """Return why this metric cannot be computed here, with the command that mends it, or None if it can."""
        return None

    @abstractmethod
    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return one value per image, (B,), on the device of the images.

        Args:
            x_hat: reconstructions, (B, 3, H, W) in [-1, 1]; clipped to that range first.
            x: truths, the same shape.
        """


class FeatureExtractor(ABC):
    """A network that describes an image by a vector, for distances between sets of images."""

    name: ClassVar[str]
    column: ClassVar[str]  # of the result schema

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()

    def unavailable(self) -> str | None:
        """Return why the features cannot be computed here, with the command that mends it, or None if they can."""
        return None

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Return float32 features, (B, 3, H, W) in [-1, 1] -> (B, d), on the device of the images."""


class SetMetric(ABC):
    """A distance between two sets of images, given as rows of features. A set is reduced once, then compared often."""

    name: ClassVar[str]
    features: ClassVar[str]  # name of the FeatureExtractor

    @abstractmethod
    def reduce(self, chunks: Iterable[Rows]) -> Any:
        """Return what the distance needs of a set: features in chunks of shape (n, d), any float type."""

    @abstractmethod
    def distance(self, estimates: Any, references: Any) -> float:
        """Return the distance between two reduced sets; NaN if one has fewer than two rows."""

    def __call__(self, estimates: Iterable[Rows], references: Iterable[Rows]) -> float:
        """Return the distance of reconstructions from truths, both as chunks of features."""
        return self.distance(self.reduce(estimates), self.reduce(references))


METRICS: Registry[Metric] = Registry("metric")
FEATURES: Registry[FeatureExtractor] = Registry("feature extractor")
SET_METRICS: Registry[SetMetric] = Registry("set metric")

"""What a metric is: of one image against its truth, or of a set of images against a set."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry
from ipsolve.signal import Signal

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True, config={"extra": "forbid"})
class Weights:
    """Where the weights of the reference networks are; the section ``weights`` of a configuration.

    A path left out means the place in which the network's own library looks. Files are used only if their
    SHA-256 is the published one, or ``inception_sha256`` if that is given (a TorchScript file is code).

    Which key is for which field of what is said there, by :attr:`Scorer.WEIGHTS`.
    """

    lpips_net: Literal["alex", "vgg"] = "alex"
    lpips: str | None = None
    inception: str | None = None
    inception_sha256: str | None = None


class Scorer(ABC):
    """What metrics of images and feature extractors share. Subclasses are frozen dataclasses, their fields settings.

    A network is loaded when it is first needed and kept beside the fields (:func:`functools.cached_property`); it does
    not travel to other processes with them.

    Attributes:
        citation: where it was published.
        WEIGHTS: its fields that the section ``weights`` of a request sets, with the key there.
    """

    name: ClassVar[str]
    citation: ClassVar[Citation | None] = None
    WEIGHTS: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def settings(cls, weights: Weights) -> dict[str, Any]:
        """Return the fields that the section ``weights`` sets."""
        return {field: getattr(weights, key) for field, key in cls.WEIGHTS.items()}

    def unavailable(self) -> str | None:
        """Return why it cannot be computed here, with the command that mends it, or None if it can."""
        return None

    def check(self, image_shape: tuple[int, ...]) -> None:  # noqa: B027 (most are for images of any shape)
        """Raise RequestError unless it is made for images of this shape, (C, H, W); no network is loaded."""

    def identity(self) -> dict[str, Any]:
        """Return what its numbers depend on beside its name: by default the fields that have not their default.

        It is part of what a cell is. A path says nothing of a number where a file must have a known SHA-256.
        """
        values = {field: getattr(self, field.name) for field in _fields(self)}
        return {f"{self.name}.{field.name}": value for field, value in values.items() if value != _default(field)}

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in _fields(self)}


def _fields(part: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(part)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


class Metric(Scorer):
    """A distance or similarity of each image to its truth.

    Attributes:
        unit: of its values, for tables and figures.
        decimals: that a table shows.
        meaning: what a reader has to know of the figure; the heading's tooltip.
        exact: what an image counts as whose value is infinite, where it may not be left out. No other is above.
    """

    higher_is_better: ClassVar[bool]
    unit: ClassVar[str] = ""
    decimals: ClassVar[int] = 4
    meaning: ClassVar[str] = ""
    exact: ClassVar[float | None] = None

    @abstractmethod
    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return one value per image, (B,), on the device of the images.

        Args:
            x_hat: reconstructions, (B, 3, H, W) in [-1, 1]; clipped to that range first.
            x: truths, the same shape.
        """


class FeatureExtractor(Scorer):
    """A network that describes an image by a vector, for distances between sets of images."""

    column: ClassVar[str]  # of the results

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Return float32 features, (B, 3, H, W) in [-1, 1] -> (B, d), on the device of the images."""


class SetMetric(ABC):
    """A distance between two sets of images, given as rows of features. A set is reduced once, then compared often.

    Subclasses are frozen dataclasses, their fields settings; ``heading``, ``decimals`` and ``meaning`` are for tables.
    """

    name: ClassVar[str]
    features: ClassVar[str]  # name of the FeatureExtractor
    citation: ClassVar[Citation | None] = None
    heading: ClassVar[str] = ""  # the name in capitals if it is empty
    decimals: ClassVar[int] = 3
    meaning: ClassVar[str] = ""

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


def require_real(name: str, image_shape: tuple[int, ...]) -> None:
    """Raise RequestError where values are not between black and white, as of complex numbers."""
    if Signal.of(image_shape).kind == "complex":
        raise RequestError(f"{name} is of values between black and white, and not for complex signals; allowed: psnr")


def require_rgb(name: str, image_shape: tuple[int, ...]) -> None:
    """Raise RequestError unless images have three channels, as networks trained on photographs take them."""
    if (signal := Signal.of(image_shape)).kind != "rgb":
        raise RequestError(f"{name} is for rgb images, not for {signal.kind} signals")

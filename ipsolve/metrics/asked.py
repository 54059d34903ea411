"""The metrics that a request asks for: ``metrics: [psnr, {metric: lpips, net: vgg}, fid]``, and what it is read by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ipsolve.metrics.base import FEATURES, METRICS, SET_METRICS, FeatureExtractor, Metric, SetMetric, Weights
from ipsolve.requests.errors import RequestError, did_you_mean
from ipsolve.requests.validation import build

Entry = str | dict[str, Any]  # a name, or a name with settings
USUAL = ("psnr", "ssim", "lpips", "fid", "kid", "fd_prior")  # where a request does not say


@dataclass(frozen=True)
class Asked:
    """The metrics of a request as objects, by their names in its order. Make it with :meth:`of`.

    Attributes:
        images: the metrics of images.
        sets: the metrics of sets of images.
        features: what describes the images for those.
    """

    images: Mapping[str, Metric]
    sets: Mapping[str, SetMetric]
    features: Mapping[str, FeatureExtractor]

    @classmethod
    def of(cls, entries: Sequence[Entry], weights: Weights) -> Asked:
        """Return what ``metrics`` and ``weights`` of a request ask for.

        Raises:
            RequestError: an unknown metric or setting, a value out of its range, or a metric with two settings.
        """
        images, sets = dict[str, Metric](), dict[str, SetMetric]()
        for index, entry in enumerate(entries):
            where = "metrics" if isinstance(entry, str) else f"metrics.{index}"
            mapping = {"metric": entry} if isinstance(entry, str) else entry
            name = str(mapping.get("metric"))
            if mapping.get("metric") is None or name not in {*METRICS, *SET_METRICS}:
                raise _unknown(mapping, where)
            known: Metric | SetMetric | None = images.get(name) or sets.get(name)
            one: Metric | SetMetric
            if name in METRICS:
                settings = METRICS[name].settings(weights)
                one = images[name] = METRICS.parse({**settings, **mapping}, where, "metric")
            else:
                one = sets[name] = SET_METRICS.parse(mapping, where, "metric")
            if known not in (None, one):
                raise RequestError("metrics", f"{name} is there twice, and a run has one column of it")
        needed = dict.fromkeys(metric.features for metric in sets.values())
        features = {name: build(FEATURES[name], FEATURES[name].settings(weights), "weights") for name in needed}
        return cls(images, sets, features)

    @cached_property
    def missing(self) -> dict[str, str]:
        """The metrics that cannot be computed here, and the way to get them."""
        networks = {name: extractor.unavailable() for name, extractor in self.features.items()}
        reasons = {name: networks[metric.features] for name, metric in self.sets.items()}
        reasons |= {name: metric.unavailable() for name, metric in self.images.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @cached_property
    def here(self) -> Asked:
        """Those that can be computed here."""
        images = {name: metric for name, metric in self.images.items() if name not in self.missing}
        sets = {name: metric for name, metric in self.sets.items() if name not in self.missing}
        needed = {metric.features for metric in sets.values()}
        return Asked(images, sets, {name: each for name, each in self.features.items() if name in needed})

    @property
    def identity(self) -> dict[str, Any]:
        """Return what the rows of a run depend on; what goes without saying is absent."""
        return _identity([*self.images.values(), *self.features.values()])

    @property
    def identity_of_features(self) -> dict[str, Any]:
        """Return what the features of the ground truth depend on."""
        return _identity(self.features.values())


def _identity(scorers: Iterable[Metric | FeatureExtractor]) -> dict[str, Any]:
    return {key: value for scorer in scorers for key, value in scorer.identity().items()}


def _unknown(mapping: Mapping[str, Any], where: str) -> RequestError:
    name, allowed = mapping.get("metric"), [*METRICS, *SET_METRICS]
    if where != "metrics":
        where = f"{where}.metric"
    if name is None:
        return RequestError(where, f"is required; allowed: {', '.join(allowed)}")
    return RequestError(where, f"unknown metric {name!r}{did_you_mean(name, allowed)}; allowed: {', '.join(allowed)}")


def names_of(entries: Iterable[Entry]) -> list[str]:
    """Return the names of the metrics that are asked for, each once."""
    return list(dict.fromkeys(entry if isinstance(entry, str) else str(entry.get("metric")) for entry in entries))


def headline_of(entries: Iterable[Entry], chosen: str | None = None) -> str | None:
    """Return the metric of images that a run is read by.

    Args:
        entries: ``metrics`` of the request.
        chosen: its ``headline``. None: PSNR if it is asked for, else the first metric of images that is; there may be
            none.

    Raises:
        RequestError: ``chosen`` is no metric of images that is asked for.
    """
    asked = [name for name in names_of(entries) if name in METRICS]
    if chosen is None:
        return "psnr" if "psnr" in asked else next(iter(asked), None)
    if chosen not in asked:
        allowed = ", ".join(asked) or "none, the request asks for no metric of images"
        hint = did_you_mean(chosen, asked)
        raise RequestError("headline", f"no metric of images that is asked for: {chosen!r}{hint}; allowed: {allowed}")
    return chosen

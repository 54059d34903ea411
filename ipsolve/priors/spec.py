"""How a configuration describes a prior, and what can be known of it without loading weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from ipsolve.priors.base import Prior, Shape, prior_traits
from ipsolve.priors.networks.unet import Precision
from ipsolve.priors.schedules import Schedule
from ipsolve.requests.registry import Registry
from ipsolve.requests.traits import Traits
from ipsolve.signal import Signal


class PriorSummary(NamedTuple):
    """What a plan needs to know of a prior.

    Attributes:
        image_shape: of an x, (C, H, W) for images.
        latent: whether it works on latents.
        abilities: what else it can do.
        schedule: its noise levels, which the steps of a solver must fit; None: not known before it is loaded.
    """

    image_shape: Shape
    latent: bool
    abilities: Traits = frozenset()
    schedule: Schedule | None = None

    @property
    def traits(self) -> Traits:
        """What a solver can rely on, as :attr:`ipsolve.priors.base.Prior.traits`."""
        return prior_traits(self.image_shape, self.latent) | self.abilities

    @property
    def signal(self) -> Signal:
        """What an x of the prior is."""
        return Signal.of(self.image_shape)


class PriorSpec(ABC):
    """A named prior with its parameters, as a configuration writes it. Subclasses are frozen dataclasses."""

    name: ClassVar[str]

    @abstractmethod
    def summary(self) -> PriorSummary:
        """Return what a plan needs to know, from configuration files alone; RequestError where they are wrong."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of all that decides the values of the prior: its parameters, configurations and weights."""

    def check(self) -> None:
        """Raise RequestError where :meth:`load` would. Who asks may have little memory: no weights are loaded."""
        self.summary()

    @abstractmethod
    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Prior:
        """Return the prior, its weights loaded.

        Raises:
            RequestError: something is missing, of another class or shape than allowed.
        """


PRIORS: Registry[PriorSpec] = Registry("prior")


def prior_spec(config: Mapping[str, Any]) -> PriorSpec:
    """Return the checked description of ``{"prior": NAME, ...}``, the ``prior`` section of a configuration.

    Raises:
        RequestError: an unknown name, key or value.
    """
    return PRIORS.parse(config, "prior", "prior")


def prior_summary(config: Mapping[str, Any]) -> PriorSummary:
    """Return image shape and kind of a prior without loading weights; RequestError where the request is wrong."""
    return prior_spec(config).summary()


def load_prior(
    config: Mapping[str, Any], device: torch.device | str = "cpu", precision: Precision = "float32"
) -> Prior:
    """Return the prior that ``{"prior": NAME, ...}`` describes; RequestError where the request is wrong."""
    return prior_spec(config).load(device, precision)

"""The networks that a prior folder may name beside those of diffusers: published ones that diffusers does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ipsolve.priors.networks.adm import AdmUNet
from ipsolve.priors.networks.edm import EdmUNet
from ipsolve.priors.networks.edm2 import Edm2UNet


class Network(Protocol):
    """A class of networks that ``config.json`` describes."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Return the network, its weights not set; RequestError where ``config`` describes none."""


OWN: dict[str, type[Network]] = {cls.__name__: cls for cls in (AdmUNet, EdmUNet, Edm2UNet)}
UNETS = ("UNet2DModel", *OWN)

"""Which family of pixel priors a state dictionary is of, by the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ipsolve.priors.networks.adm_checkpoint import read_adm
from ipsolve.priors.networks.diffusers_folder import Config
from ipsolve.priors.networks.edm_checkpoint import read_edm, read_edm2
from ipsolve.priors.networks.score_sde import read_score_sde
from ipsolve.requests.errors import RequestError

Weights = Mapping[str, Tensor]
Flags = Mapping[str, Any]


class Family(NamedTuple):
    """A family of checkpoints.

    Args:
        title: its name for people.
        sign: a tensor that every checkpoint of it has, perhaps below a prefix that a wrapper has put before the names.
        read: returns network, configuration of the schedule, and how it was recognised; RequestError.
        beside: how tensors begin that stand beside the network and are of its training alone.
    """

    title: str
    sign: str
    read: Callable[[Weights, Flags | None], tuple[nn.Module, Config, str]]
    beside: tuple[str, ...] = ()


FAMILIES = (
    Family("guided diffusion (ADM)", "input_blocks.0.0.weight", read_adm),
    Family("EDM", "map_layer0.weight", read_edm),
    Family("EDM2", "emb_fourier.freqs", read_edm2, ("logvar_",)),
    Family("score_sde", "all_modules.0.*", read_score_sde),
)
_WRAPPERS = ("", "module.", "model.", "unet.", "net.", "ema.", "module.model.", "module.unet.")


def family_of(state: Weights) -> Family | None:
    """Return the family of a state dictionary; None if it is of none."""
    for family in FAMILIES:
        if _wrapper(state, family.sign) is not None:
            return family
    return None


def unwrapped(state: Weights, family: Family) -> dict[str, Tensor]:
    """Return the tensors of the network itself, by the names that its authors gave them.

    Raises:
        RequestError: there are tensors beside those of the network, which would change what it computes.
    """
    prefix = _wrapper(state, family.sign) or ""
    beside = [name for name in state if not name.startswith((prefix, *family.beside))]
    if beside:
        hint = "; preconditioning iddpm is not supported" if beside == ["u"] else ""
        raise RequestError("CHECKPOINT", f"holds {beside[0]} beside the {family.title} network {prefix}*{hint}")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _wrapper(state: Weights, sign: str) -> str | None:
    stem = sign.removesuffix("*")
    for prefix in _WRAPPERS:
        sought = prefix + stem
        if sought in state or (sign.endswith("*") and any(name.startswith(sought) for name in state)):
            return prefix
    return None

"""A forward pass without numbers: a network on the meta device takes shapes, and neither memory nor weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ipsolve.priors.base import Shape
from ipsolve.requests.errors import RequestError

_UNTRACEABLE = ("meta tensor", "Meta tensor", "meta device", "'Meta' backend")


@torch.no_grad()
def require_output(network: Callable[[Tensor], Tensor], given: Shape, expected: Shape, where: str) -> None:
    """Raise RequestError unless a network makes (1, *expected) of (1, *given).

    Args:
        network: its parameters on the meta device.
        where: it starts the message.
    """
    try:
        with torch.device("meta"):
            found = tuple(network(torch.empty(1, *given)).shape[1:])
    except NotImplementedError:  # an operation that has no shapes of its own: nothing is known
        return
    except Exception as error:  # whatever its layers say of a size that they cannot take
        if any(words in str(error) for words in _UNTRACEABLE):
            return
        why = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{where} cannot take {_size(given)}: {why}") from None
    if found != expected:
        raise RequestError(f"{where} makes {_size(found)} of {_size(given)}, not {_size(expected)}")


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape))

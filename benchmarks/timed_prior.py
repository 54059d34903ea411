"""A prior that measures the time spent inside its networks."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.harness import clock
from ipsolve.priors import Level, Prior


class Stopwatch:
    """Seconds between ``start`` and ``stop``, summed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        self._since = clock()

    def stop(self) -> None:
        self.seconds += clock() - self._since


class TimedPrior(Prior):
    """Adds up the wall time of denoise, encode and decode, and of the backward passes through them.

    A backward pass is timed from the moment its gradient reaches the output of a network call until it leaves at the
    input: two identities around the call do so. Nothing else can run in between, since autograd takes the operations
    of a graph in the reverse order of their creation.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.name, self.latent, self.schedule = prior.name, prior.latent, prior.schedule
        self.image_shape, self.latent_shape = prior.image_shape, prior.latent_shape
        self.watch = Stopwatch()

    def select(self, rows: Tensor) -> Self:
        return self

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        x_t = self._enter(x_t)
        return self._leave(self.prior.denoise(x_t, t))

    def encode(self, x: Tensor) -> Tensor:
        x = self._enter(x)
        return self._leave(self.prior.encode(x))

    def decode(self, z: Tensor) -> Tensor:
        z = self._enter(z)
        return self._leave(self.prior.decode(z))

    def _enter(self, x: Tensor) -> Tensor:
        entered: Tensor = _StopInBackward.apply(x, self.watch)
        self.watch.start()
        return entered

    def _leave(self, out: Tensor) -> Tensor:
        self.watch.stop()
        left: Tensor = _StartInBackward.apply(out, self.watch)
        return left


class _StopInBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, watch: Stopwatch) -> Tensor:
        context.watch = watch
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        context.watch.stop()
        return gradient, None


class _StartInBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, watch: Stopwatch) -> Tensor:
        context.watch = watch
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        context.watch.start()
        return gradient, None

"""Solvers that misbehave on purpose: each answers as ``pseudo_inverse`` does, after a fault."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.problem import Problem
from ipsolve.solvers import Solver
from ipsolve.solvers.classical.pseudo_inverse import PseudoInverse


class Faulty(Solver):
    """Has a fault."""

    citation: ClassVar[Citation] = PseudoInverse.citation

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        return x_hat

    def solve(self, problem: Problem) -> Tensor:
        return self.fault(problem.y, PseudoInverse().solve(problem))


def brightest(y: Tensor) -> Tensor:
    """Return which image of a batch has a mean above -0.2: some of the portraits, whatever the batch."""
    return y.flatten(1).mean(1) > -0.2


@dataclass(frozen=True)
class NotANumber(Faulty):
    """Answers some images with ``value``: a word, as a request holds no number that is not finite."""

    name: ClassVar[str] = "not_a_number"
    value: Literal["nan", "inf", "-inf"] = "nan"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        return torch.where(brightest(y)[:, None, None, None], float(self.value), x_hat)


@dataclass(frozen=True)
class OutOfMemory(Faulty):
    """Has room for ``room`` images."""

    name: ClassVar[str] = "out_of_memory"
    room: int = 1

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if len(y) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return x_hat


@dataclass(frozen=True)
class Raises(Faulty):
    """Fails for some images."""

    name: ClassVar[str] = "raises"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if bool(brightest(y).any()):
            raise ZeroDivisionError("this image\nis too bright")
        return x_hat


@dataclass(frozen=True)
class BrokenDevice(Faulty):
    """Breaks the device of its process, as an illegal access in a kernel does."""

    name: ClassVar[str] = "broken_device"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if bool(brightest(y).any()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return x_hat


@dataclass(frozen=True)
class Poison(Faulty):
    """Kills its process, as a fault in native code does."""

    name: ClassVar[str] = "poison"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if bool(brightest(y).any()):
            os._exit(1)
        return x_hat


@dataclass(frozen=True)
class Slow(Faulty):
    """Sleeps as a GPU would compute, and leaves a file for each image that it was called for.

    Args:
        seconds: for an image.
        calls: a folder; each call leaves the number of its process in it. Empty: nothing is left.
        hold: a file; a call takes no less time than the file is there.
    """

    name: ClassVar[str] = "slow"
    seconds: float = 1.0
    calls: str = ""
    hold: str = ""

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if self.calls:
            for _ in y:
                Path(self.calls, f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds * len(y))
        while self.hold and Path(self.hold).exists():
            time.sleep(0.05)
        return x_hat

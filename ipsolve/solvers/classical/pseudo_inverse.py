"""The pseudo-inverse: what the measurement alone gives, the floor for every other method."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Solver


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PseudoInverse(Solver):
    """x_hat = A^T (A A^T + (noise_std / signal_std)^2 I)^-1 y.

    Args:
        signal_std: assumed std of image values around mid-grey; directions whose signal drowns in the noise are
            damped accordingly. Null is the exact A^+ y, which amplifies noise without bound where A has tiny
            singular values.
    """

    name: ClassVar[str] = "pseudo_inverse"
    citation: ClassVar[Citation] = Citation(
        key="penrose1955inverse",
        authors="Penrose, Roger",
        title="A Generalized Inverse for Matrices",
        year=1955,
        venue="Mathematical Proceedings of the Cambridge Philosophical Society",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})

    signal_std: Annotated[float, Field(gt=0)] | None = 0.3

    def solve(self, problem: Problem) -> Tensor:
        operator = problem.linear_operator
        damping = 0.0 if self.signal_std is None else (problem.noise_std / self.signal_std) ** 2
        return operator.pinv(problem.y, damping)

"""The pseudo-inverse: what the measurement alone gives, the floor for every other method."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import LinearOperator, Operator
from ipsolve.priors.base import Prior
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import SOLVERS, Requirements, Solver


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
    paper: ClassVar[str] = "Moore 1920; Penrose 1955 (damped: Tikhonov 1963)"
    family: ClassVar[str] = "classical"
    requires: ClassVar[Requirements] = Requirements(linear=True)

    signal_std: Annotated[float, Field(gt=0)] | None = 0.3

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        assert isinstance(operator, LinearOperator)
        damping = 0.0 if self.signal_std is None else (measurement.noise_std / self.signal_std) ** 2
        return operator.pinv(measurement.y, damping)

"""How far a state is from the measurement: the data term that solvers descend on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ipsolve.conventions import norm, squared_norm
from ipsolve.operators.base import Operator
from ipsolve.priors.base import Prior
from ipsolve.problem import Measurement


@dataclass(frozen=True)
class Likelihood:
    """The data term of a batch: residual r(z) = A(D(z)) - y on the measured entries.

    ``z`` is a state of the prior (a latent, or an image for pixel priors); every value is per image.
    """

    measurement: Measurement
    operator: Operator
    prior: Prior

    def residual(self, x: Tensor) -> Tensor:
        """Return A(x) - y of images x, (B, *measurement_shape), 0 where nothing was measured."""
        difference = self.operator.forward(x) - self.measurement.y
        support = self.operator.support()
        return difference if support is None else difference * support

    def distance(self, z: Tensor) -> Tensor:
        """Return ||A(D(z)) - y||, (B,)."""
        return norm(self.residual(self.prior.decode(z)))

    def mean_square(self, z: Tensor) -> Tensor:
        """Return ||A(D(z)) - y||^2 / m, (B,): noise_std^2 when only noise is left."""
        return self.image_mean_square(self.prior.decode(z))

    def image_mean_square(self, x: Tensor) -> Tensor:
        """Return ||A(x) - y||^2 / m of images x, (B,)."""
        m = self.operator.num_measurements(len(x)).to(x)
        return squared_norm(self.residual(x)) / m

    def select(self, rows: Tensor) -> Likelihood:
        """Return the data term of some images of the batch."""
        return Likelihood(self.measurement.select(rows), self.operator.select(rows), self.prior.select(rows))

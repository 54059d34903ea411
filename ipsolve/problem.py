"""Measurements y = A(x) + noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipsolve.conventions import squared_norm
from ipsolve.operators.base import Operator, OperatorSpec
from ipsolve.operators.noise import Noise
from ipsolve.randomness import image_rng


@dataclass(frozen=True)
class Measurement:
    """y, (B, *measurement_shape), and the std of its noise in units of [-1, 1] images."""

    y: Tensor
    noise_std: float

    def select(self, rows: Tensor) -> Measurement:
        """Return the measurements of some images."""
        return Measurement(self.y[rows], self.noise_std)


def measure(
    spec: OperatorSpec, noise: Noise, x: Tensor, seed: int, image_ids: Sequence[str]
) -> tuple[Operator, Measurement]:
    """Draw the operator and the measurement of a batch: a function of (seed, image_id) alone for each image.

    Args:
        x: ground truth, (B, *image_shape) in [-1, 1]; its device and dtype are those of the result.
        image_ids: B identifiers.
    """
    operator = spec.draw(tuple(x.shape[1:]), image_rng(seed, image_ids, "operator", x.device), x.dtype)
    clean = operator.forward(x)
    y = noise.apply(clean, image_rng(seed, image_ids, "measurement", x.device))
    support = operator.support()
    return operator, Measurement(y if support is None else y * support, noise.std)


def consistency(operator: Operator, measurement: Measurement, x: Tensor) -> Tensor:
    """Return ||A(x) - y|| / (noise_std sqrt(m)) of each image, (B,) float64; NaN for noiseless measurements.

    1 means a residual as large as the noise; well below 1 the noise itself was fitted.
    """
    residual = operator.forward(x) - measurement.y
    support = operator.support()
    energy = squared_norm((residual if support is None else residual * support).double()).cpu()
    scale = measurement.noise_std**2 * operator.num_measurements(len(x))
    return torch.where(scale > 0, (energy / scale).sqrt(), torch.nan)

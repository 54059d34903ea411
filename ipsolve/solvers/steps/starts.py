"""What stands for the image before there is one: a measurement, made an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ipsolve.operators.base import LinearOperator
from ipsolve.problem import Problem


def measurement_as_image(problem: Problem, operator: LinearOperator) -> Tensor:
    """Return y, enlarged to the size of x by repeating its pixels, (B, *image_shape); A^+ y where y is no image."""
    shown = operator.as_image(problem.y)
    if shown is None:
        return operator.pinv(problem.y)
    shape = operator.image_shape
    if shown.shape[1:] == shape:
        return shown
    planes = shown.reshape(len(shown), -1, *shown.shape[-2:])  # channels, and frames where there are any
    return F.interpolate(planes, size=shape[-2:], mode="nearest").reshape(len(shown), *shape)

"""What the camera does: vignette, white balance, exposure and grain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.datasets.portraits.drawing import channels
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.frame import Frame


@dataclass(frozen=True)
class Finish:
    """Traits of the photograph. Fields in stream order."""

    vignette: Tensor
    white_balance: Tensor
    exposure: Tensor
    grain: Tensor
    grain_strength: Tensor

    @classmethod
    def draw(cls, draws: Draws, size: int) -> Self:
        cells = min(size // 2, 32)
        return cls(
            vignette=draws.uniform(0, 0.3),
            white_balance=torch.stack([draws.uniform(0.94, 1.06) for _ in range(3)], 1),
            exposure=draws.uniform(0.88, 1.1),
            grain=draws.noise(cells, cells, "bilinear"),
            grain_strength=draws.uniform(0.004, 0.022),
        )

    def paint(self, image: Tensor, frame: Frame) -> Tensor:
        falloff = 1 - self.vignette * (frame.x * frame.x + frame.y * frame.y) * 0.5
        image = image * channels(falloff) * self.white_balance * channels(self.exposure)
        return (image + channels(self.grain_strength * self.grain)).clamp(0, 1)

"""JPEG-like compression: coarse cosine coefficients."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import OPERATORS, Operator, OperatorSpec, Shape, Theta, require
from ipsolve.signal import Kind

# ITU-T T.81 (JPEG) tables K.1 and K.2, and the RGB to YCbCr matrix of JFIF 1.02
_LUMA = """16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99"""
_YCBCR = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]


class BlockQuantisation(Operator):
    """y is x after rounding its 8 x 8 cosine coefficients in YCbCr to multiples of the JPEG tables.

    Where chroma is halved, it is the mean of 2 x 2 pixels on the way in and interpolated linearly on the way out, as
    libjpeg does. Rounding passes its gradient straight through. y is not rounded to bytes.

    Args:
        image_shape: (3, H, W) with sides divisible by 8.
        quality: 1 to 100, on the scale of libjpeg.
        halve_chroma: keep Cb and Cr at half the height and width.
    """

    def __init__(
        self, image_shape: Shape, quality: int, halve_chroma: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.image_shape = self.measurement_shape = image_shape
        self._halve_chroma = halve_chroma
        tables = np.array([_LUMA.split(), _CHROMA.split(), _CHROMA.split()], dtype=np.float64).reshape(3, 1, 1, 8, 8)
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality

        def tensor(array: object) -> Tensor:
            return torch.tensor(array, dtype=dtype, device=device)

        self._steps = tensor(np.clip((tables * scale + 50) // 100, 1, 255))
        self._dct = tensor(scipy.fft.dct(np.eye(8), axis=0, norm="ortho"))
        self._to_ycbcr, self._to_rgb = tensor(_YCBCR), tensor(np.linalg.inv(np.array(_YCBCR)))

    def select(self, rows: Tensor) -> Self:
        return self

    def forward(self, x: Tensor) -> Tensor:
        # 127.5 (x + 1) - 128, JPEG's level shift; the rows of the matrix for chroma sum to 0 and so drop it
        pixels = torch.einsum("kc,bchw->bkhw", self._to_ycbcr, 127.5 * x - 0.5)
        luma, chroma = pixels[:, :1], pixels[:, 1:]
        chroma = self._halved(chroma) if self._halve_chroma else self._rounded(chroma, self._steps[1:])
        pixels = torch.cat([self._rounded(luma, self._steps[:1]), chroma], 1)
        return (torch.einsum("kc,bchw->bkhw", self._to_rgb, pixels) + 0.5) / 127.5

    def _rounded(self, pixels: Tensor, steps: Tensor) -> Tensor:
        """Return planes (B, C, H, W) with the coefficients of their blocks rounded to multiples of ``steps``."""
        batch, channels, height, width = pixels.shape
        blocks = pixels.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
        coefficients = self._dct @ blocks @ self._dct.mT / steps
        rounded = coefficients + (coefficients.round() - coefficients).detach()
        blocks = self._dct.mT @ (rounded * steps) @ self._dct
        return blocks.transpose(3, 4).reshape(batch, channels, height, width)

    def _halved(self, chroma: Tensor) -> Tensor:
        height, width = chroma.shape[2:]
        padded = F.pad(
            chroma, (0, -width % 16, 0, -height % 16), mode="replicate"
        )  # to whole blocks of the small planes
        small = self._rounded(F.avg_pool2d(padded, 2), self._steps[1:])[..., : height // 2, : width // 2]
        return F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)


Sampling = Literal["4:4:4", "4:2:0"]
# YAML 1.1 reads 4:2:0 without quotes as a number in base 60
_BASE_60 = {4 * 3600 + 4 * 60 + 4: "4:4:4", 4 * 3600 + 2 * 60: "4:2:0"}


def _unquoted(value: object) -> object:
    return _BASE_60.get(value, value) if type(value) is int else value


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Jpeg(OperatorSpec):
    """y is x as JPEG would keep it: cosine coefficients of blocks are rounded, the coarser the lower the quality.

    Args:
        quality: 1 to 100, on the scale of libjpeg.
        subsampling: ``4:2:0`` keeps chroma at half the height and width, as Pillow and torchvision write files unless
            told otherwise; ``4:4:4`` keeps all of it.
    """

    name: ClassVar[str] = "jpeg"
    signals: ClassVar[frozenset[Kind]] = frozenset({"rgb"})
    linear: ClassVar[bool] = False
    quality: Annotated[int, Field(ge=1, le=100)] = 10
    subsampling: Annotated[Sampling, BeforeValidator(_unquoted)] = "4:2:0"

    def check(self, image_shape: Shape) -> None:
        height, width = image_shape[1:]
        require(height % 8 == 0 and width % 8 == 0, f"jpeg needs sides divisible by 8, not {height}x{width}")

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> BlockQuantisation:
        return BlockQuantisation(image_shape, self.quality, self.subsampling == "4:2:0", dtype, device)

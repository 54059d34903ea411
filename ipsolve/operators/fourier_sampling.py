"""Fourier sampling: some columns of the Fourier transform of a complex image, as in Cartesian MRI."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape, SpectralOperator, Theta, require
from ipsolve.randomness import ImageRng
from ipsolve.signal import Kind


class MaskedFourier(SpectralOperator):
    """y = M F x: the unitary Fourier transform F of a complex image, 0 where the mask M is 0.

    x and y are pairs of real channels, (B, 2, H, W). F is orthogonal on the pairs, so that it is the V^T of a singular
    value decomposition whose singular values are the mask, and A^T = A^H is the conjugate transpose.

    Args:
        mask: 0 or 1, (B, 1, 1, W) or (B, 1, H, W), zero frequency first.
    """

    def __init__(self, mask: Tensor, image_shape: Shape) -> None:
        self.mask = mask
        self.image_shape = self.measurement_shape = image_shape

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.mask[rows], self.image_shape)

    def support(self) -> Tensor | None:
        return self.mask

    def singular_values(self) -> Tensor:
        return self.mask

    def to_spectral(self, x: Tensor) -> Tensor:
        return _pair(torch.fft.fft2(torch.complex(x[:, 0], x[:, 1]), norm="ortho"))

    def from_spectral(self, c: Tensor) -> Tensor:
        return _pair(torch.fft.ifft2(torch.complex(c[:, 0], c[:, 1]), norm="ortho"))

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return self.mask * y

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return self.mask * c

    def as_image(self, y: Tensor) -> Tensor | None:
        """Return the zero-filled image A^H y."""
        return self.adjoint(y)


def _pair(z: Tensor) -> Tensor:
    return torch.stack([z.real, z.imag], 1)


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FourierSampling(OperatorSpec):
    """Some columns of the Fourier transform: those of the lowest frequencies, and random ones, drawn per image.

    Args:
        acceleration: W over the number of columns that are kept.
        centre_fraction: share of the columns, those of the lowest frequencies, that are always kept.
    """

    name: ClassVar[str] = "fourier_sampling"
    signals: ClassVar[frozenset[Kind]] = frozenset({"complex"})
    acceleration: Annotated[float, Field(ge=1)] = 4.0
    centre_fraction: Annotated[float, Field(ge=0, le=1)] = 0.08

    @property
    def spectral(self) -> bool:
        return True

    def check(self, image_shape: Shape) -> None:
        kept, centre = self._counts(image_shape[-1])
        require(kept >= 1, f"acceleration: {self.acceleration:g} keeps none of {image_shape[-1]} columns")
        require(centre <= kept, f"centre_fraction: {centre} columns are more than the {kept} that acceleration keeps")

    def _counts(self, width: int) -> tuple[int, int]:
        return int(width / self.acceleration), round(self.centre_fraction * width)

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        width = image_shape[-1]
        kept, centre = self._counts(width)
        frequency = torch.fft.fftfreq(width, device=rng.device).abs()
        lowest = frequency.argsort(stable=True)[:centre]
        rank = rng.permutation(width)
        rank[:, lowest] = -1  # before all that are drawn
        chosen = rank.argsort(dim=1, stable=True)[:, :kept]
        mask = torch.zeros(len(rank), width, dtype=dtype, device=rng.device).scatter_(1, chosen, 1.0)
        return {"mask": mask[:, None, None]}

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> MaskedFourier:
        return MaskedFourier(theta["mask"], image_shape)

"""What a solver knows of a forward operator A, and how a configuration describes one.

Three nouns: an :class:`OperatorSpec` is what a configuration names (``super_resolution`` with ``factor=4``), a
frozen dataclass whose fields are its settings; ``spec.family(image_shape)`` is the :class:`OperatorFamily` A_theta, in
which theta, the random parts (masks, kernels), is still open; and ``family.at(theta)`` is the :class:`Operator` of one
batch. Solvers see the operator, or, where the task is blind, the family alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image, squared_norm
from ipsolve.linalg import conjugate_gradient
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry
from ipsolve.requests.traits import Traits
from ipsolve.signal import PLANES, Kind, Signal

Shape = tuple[int, ...]
Damping = float | Tensor
Theta = Mapping[str, Tensor]  # the parameters of an operator by name, each (B, ...)


class Operator(ABC):
    """A drawn forward operator for a batch of images: y = A(x).

    ``forward`` maps (B, *image_shape) to (B, *measurement_shape), is differentiable, and treats every image of
    the batch on its own.
    """

    linear: ClassVar[bool] = False
    image_shape: Shape
    measurement_shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A(x): (B, *image_shape) -> (B, *measurement_shape)."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """Return the operator of some images of the batch. ``rows``: int64 indices."""

    def support(self) -> Tensor | None:
        """Where a measurement carries data: 1 or 0, broadcastable to (B, *measurement_shape); None is everywhere."""
        return None

    def num_measurements(self, batch_size: int) -> Tensor:
        """Return m, the number of measured values of each image, (B,) float64."""
        mask = self.support()
        ones = torch.ones(batch_size, *self.measurement_shape)
        return squared_norm((ones if mask is None else ones * mask.cpu()).double())

    def as_image(self, y: Tensor) -> Tensor | None:
        """Return a measurement as signals of the kind of x, of any height and width, or None where it is none."""
        alike = len(self.image_shape) > 2 and self.measurement_shape[:-2] == self.image_shape[:-2]
        return y if alike and len(self.measurement_shape) == len(self.image_shape) else None


class LinearOperator(Operator):
    """A linear A. A subclass with structure overrides ``pinv``; otherwise conjugate gradients serve."""

    linear = True
    cg_iterations: int = 100
    cg_tolerance: float = 1e-4  # of the normal equations; below it float32 and real noise gain nothing

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y: (B, *measurement_shape) -> (B, *image_shape)."""

    def pinv(self, y: Tensor, damping: Damping = 0.0) -> Tensor:
        """Return A^T (A A^T + damping I)^-1 y; damping 0 is the Moore-Penrose pseudo-inverse A^+ y.

        Singular values below sqrt(damping) are damped, not inverted. ``damping`` is a float or one value per
        image (B,). For data with noise of std sigma on a signal of std r, the choice sigma^2 / r^2 is the
        Wiener (posterior mean) estimate, the role of sigma_y in DDNM+ (Wang et al. 2023, arXiv 2212.00490, 3.3).
        """

        def normal(x: Tensor) -> Tensor:
            return self.adjoint(self.forward(x)) + per_image(damping, x) * x

        # the normal equations are consistent for every y, also one that A cannot produce
        return conjugate_gradient(normal, self.adjoint(y), self.cg_iterations, self.cg_tolerance)

    def prox(self, x: Tensor, y: Tensor, weight: Damping = 0.0) -> Tensor:
        """Return argmin_z ||A z - y||^2 + weight ||z - x||^2, computed as x + pinv(y - A x, weight).

        At weight 0 it is the null-space projection (I - A^+ A) x + A^+ y, the point nearest to x among those
        that fit the data best.
        """
        return x + self.pinv(y - self.forward(x), weight)


class SpectralOperator(LinearOperator):
    """A linear A with a known singular value decomposition A = U diag(s) V^T, applied without forming it.

    Spectral coordinates may be complex (Fourier); U and V are isometries on their coordinates, so that white
    noise stays white. Image coordinates and measurement coordinates that share an index share ``s`` there.
    """

    @abstractmethod
    def singular_values(self) -> Tensor:
        """Return s >= 0, broadcastable to the spectral coordinates (B, ...)."""

    @abstractmethod
    def to_spectral(self, x: Tensor) -> Tensor:
        """Return V^T x in the coordinates of ``singular_values``: (B, *image_shape) -> (B, ...)."""

    @abstractmethod
    def from_spectral(self, c: Tensor) -> Tensor:
        """Return V c: (B, ...) -> (B, *image_shape)."""

    @abstractmethod
    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        """Return U^T y: (B, *measurement_shape) -> (B, ...), 0 where A has no measurement."""

    @abstractmethod
    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        """Return U c: (B, ...) -> (B, *measurement_shape)."""

    rank_tolerance: float = 1e-6  # relative to the largest singular value; a direction below it is removed from A

    def largest_singular_value(self) -> Tensor:
        """Return max s of each image, shaped to broadcast with ``singular_values``."""
        s = self.singular_values()
        return s.flatten(1).amax(1).reshape(-1, *[1] * (s.ndim - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.measurement_from_spectral(self.singular_values() * self.to_spectral(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.from_spectral(self.singular_values() * self.measurement_to_spectral(y))

    def pinv(self, y: Tensor, damping: Damping = 0.0) -> Tensor:
        c = self.measurement_to_spectral(y)
        gain = damped_inverse(self.singular_values(), per_image(damping, c))
        return self.from_spectral(gain * c)


def drop_null(s: Tensor, rank_tolerance: float) -> Tensor:
    """Return singular values (B, ...) with those below ``rank_tolerance`` of an image's largest set to zero."""
    largest = s.flatten(1).amax(1).reshape(-1, *[1] * (s.ndim - 1))
    return torch.where(s > rank_tolerance * largest, s, 0.0)


def damped_inverse(s: Tensor, damping: Damping) -> Tensor:
    """Return s / (s^2 + damping), and 0 where s is 0: the singular values of A^T (A A^T + damping I)^-1."""
    seen = s > 0  # an exact zero would otherwise become 0 / 0
    return torch.where(seen, s / torch.where(seen, s.square() + damping, 1.0), 0.0)


@dataclass(frozen=True)
class OperatorFamily:
    """The operators A_theta of a specification on images of one shape: what is known of A before theta is."""

    spec: OperatorSpec
    image_shape: Shape
    dtype: torch.dtype
    device: torch.device

    def parameters(self, rng: ImageRng) -> Theta:
        """Draw theta for each of the B streams of ``rng``; empty where nothing is random."""
        return self.spec.parameters(self.image_shape, rng, self.dtype)

    def at(self, theta: Theta) -> Operator:
        """Return A_theta, differentiable in theta where the specification is ``blind``."""
        return self.spec.at(self.image_shape, theta, self.dtype, self.device)

    def select(self, rows: Tensor) -> Self:
        """Return the family of some images of a batch: all are of the same."""
        return self

    def __str__(self) -> str:
        return self.spec.name


class OperatorSpec(ABC):
    """A named operator with its settings, as a configuration writes it. Subclasses are frozen dataclasses.

    Raises:
        RequestError: ``parameters`` and ``at``, where the settings do not fit ``image_shape``.
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = True
    signals: ClassVar[frozenset[Kind]] = PLANES  # what it is made for; planes: entries of the first axis alike
    blind: ClassVar[bool] = False  # whether theta may be kept from a solver: ``at`` is differentiable in it
    citation: ClassVar[Citation | None] = None

    @property
    def spectral(self) -> bool:
        """Whether the drawn operator has an exact SVD (may depend on the settings)."""
        return False

    @property
    def traits(self) -> Traits:
        """What a solver can rely on: ``linear``, ``spectral`` (the SVD is known)."""
        return frozenset({"linear"} if self.linear else ()) | frozenset({"spectral"} if self.spectral else ())

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        """Draw theta, the random parts of B operators; nothing is random unless this is overridden."""
        return {}

    @abstractmethod
    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Operator:
        """Return the operator with the parameters ``theta``, as :meth:`parameters` returns them."""

    def family(
        self, image_shape: Shape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> OperatorFamily:
        """Return all operators of these settings on images of a shape; RequestError where they do not fit it."""
        self.check_signal(image_shape)
        return OperatorFamily(self, image_shape, dtype, torch.device(device))

    def draw(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype = torch.float32) -> Operator:
        """Return the operator of one batch, theta drawn per image from ``rng`` (its B streams, its device)."""
        family = self.family(image_shape, dtype, rng.device)
        return family.at(family.parameters(rng))

    def check_signal(self, image_shape: Shape) -> None:
        """Raise RequestError, before any compute, if it is not made for such signals or the settings do not fit."""
        kind = Signal.of(image_shape).kind
        require(
            kind in self.signals, f"{self.name} is not for {kind} signals; allowed: {', '.join(sorted(self.signals))}"
        )
        self.check(image_shape)

    def check(self, image_shape: Shape) -> None:  # noqa: B027 (most operators fit every shape)
        """Raise RequestError if the settings do not fit ``image_shape``, that of a signal it is made for."""


OPERATORS: Registry[OperatorSpec] = Registry("operator")


def require(condition: bool, message: str) -> None:
    """Raise RequestError(message) unless ``condition`` holds."""
    if not condition:
        raise RequestError(message)

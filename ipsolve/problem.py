"""An inverse problem y = A(x) + noise as a solver sees it, what a solver returns, and how a problem is posed.

A solver is given a :class:`Problem` and nothing else. The truth, and where the task is blind the operator and its
parameters, stay with who posed it: :class:`Posed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ipsolve.conventions import norm, squared_norm
from ipsolve.operators.base import LinearOperator, Operator, OperatorFamily, SpectralOperator, Theta
from ipsolve.operators.tasks import Task
from ipsolve.priors.base import Prior
from ipsolve.randomness import ImageRng, image_rng


@dataclass(frozen=True)
class Problem:
    """A batch of B problems.

    Attributes:
        y: measurements, (B, *measurement_shape).
        noise_std: of each, (B,) on the device of y; float64 whatever y is, so that what is computed from it is rounded
            once, where it meets images (``per_image``). Of one batch all are above 0, or all 0.
        operator: A of this batch; where the task is blind, the family that it is of.
        prior: what is known of x.
        rng: B streams on the device of y.
    """

    y: Tensor
    noise_std: Tensor
    operator: Operator | OperatorFamily
    prior: Prior
    rng: ImageRng

    @property
    def batch_size(self) -> int:
        return len(self.y)

    @cached_property
    def noiseless(self) -> bool:
        """Whether y = A(x) holds exactly; ValueError where it does for a part of the batch only."""
        without = self.noise_std == 0
        if bool(without.any()) and not bool(without.all()):
            raise ValueError("noise_std: of one batch all are above 0, or all 0")
        return bool(without.any())

    @property
    def known_operator(self) -> Operator:
        """The operator; TypeError where the task is blind."""
        if isinstance(self.operator, OperatorFamily):
            raise TypeError(f"the operator is not known, only that it is of the family {self.operator}")
        return self.operator

    @property
    def linear_operator(self) -> LinearOperator:
        """The operator; TypeError unless it is linear."""
        if not isinstance(operator := self.known_operator, LinearOperator):
            raise TypeError(f"{type(operator).__name__} is not linear")
        return operator

    @property
    def spectral_operator(self) -> SpectralOperator:
        """The operator; TypeError unless it has a known singular value decomposition."""
        if not isinstance(operator := self.known_operator, SpectralOperator):
            raise TypeError(f"{type(operator).__name__} has no known singular value decomposition")
        return operator

    def noise(self) -> Tensor:
        """Draw N(0, I) in the state space of the prior, (B, *latent_shape), from each image's own stream."""
        return self.rng.normal(*self.prior.latent_shape, dtype=self.y.dtype)

    def residual(self, x: Tensor, operator: Operator | None = None) -> Tensor:
        """Return A(x) - y of images x, (B, *measurement_shape), 0 where nothing was measured.

        Args:
            operator: the one of the problem, where it is known.
        """
        operator = self.known_operator if operator is None else operator
        difference = operator.forward(x) - self.y
        support = operator.support()
        return difference if support is None else difference * support

    def distance(self, z: Tensor) -> Tensor:
        """Return ||A(D(z)) - y|| of states z of the prior, (B,)."""
        return norm(self.residual(self.prior.decode(z)))

    def mean_square(self, z: Tensor) -> Tensor:
        """Return ||A(D(z)) - y||^2 / m of states z, (B,): noise_std^2 when only noise is left."""
        return self.image_mean_square(self.prior.decode(z))

    def image_mean_square(self, x: Tensor) -> Tensor:
        """Return ||A(x) - y||^2 / m of images x, (B,)."""
        m = self.known_operator.num_measurements(len(x)).to(x)
        return squared_norm(self.residual(x)) / m

    def select(self, rows: Tensor) -> Problem:
        """Return some problems of the batch, (k,) int64 indices; network calls go on the account of their images."""
        operator, prior = self.operator.select(rows), self.prior.select(rows)
        return Problem(self.y[rows], self.noise_std[rows], operator, prior, self.rng.select(rows))

    def repeat(self, count: int, first: int = 0) -> Problem:
        """Return every problem ``count`` times, side by side: row i * count + j is problem i with stream first + j.

        Stream 0 is the problem's own. What a row gives depends on its problem and its stream alone, so that samples may
        be drawn together or apart.
        """
        rows = torch.arange(self.batch_size, device=self.y.device).repeat_interleave(count)
        return replace(self.select(rows), rng=self.rng.repeat(count, first))


@dataclass(frozen=True)
class Solution:
    """What a solver returns. A plain tensor (B, *shape) in its place is one sample of each image.

    Attributes:
        x: S samples of each image, (B, S, *shape).
        log_weights: of the samples, (B, S); None for equal weights.
        theta: the estimated parameters of the operator, (B, ...) each; None where they are known.
    """

    x: Tensor
    log_weights: Tensor | None = None
    theta: Theta | None = None

    @classmethod
    def of(cls, answer: Tensor | Solution, shape: tuple[int, ...]) -> Solution:
        """Return the answer of a solver; ValueError unless it is of (B, *shape) ``shape``."""
        solution = answer if isinstance(answer, Solution) else cls(answer[:, None])
        found = (len(solution.x), *solution.x.shape[2:])
        if solution.x.ndim < 2 or found != tuple(shape):
            raise ValueError(f"solver returned {tuple(solution.x.shape)} for images of {tuple(shape)}")
        return solution

    def draw(self, count: int, rng: ImageRng) -> Tensor:
        """Return ``count`` samples of each image, (B, count, *shape), as their weights say.

        By systematic resampling (Kitagawa 1996): a sample of weight w is taken floor or ceil(count w) times.
        """
        if self.log_weights is None and count == self.x.shape[1]:
            return self.x
        weights = self.x.new_zeros(self.x.shape[:2]) if self.log_weights is None else self.log_weights
        chosen = systematic(weights, count, rng)
        return self.x[torch.arange(len(self.x), device=self.x.device)[:, None], chosen]


def systematic(log_weights: Tensor, count: int, rng: ImageRng) -> Tensor:
    """Draw ``count`` of P by weight from one uniform number per image, (B, P) -> (B, count) int64.

    Particle i is taken floor or ceil(count w_i) times. Weights need not be normalised.
    Source: Kitagawa 1996, J. Comput. Graph. Stat. 5(1).
    """
    comb = torch.arange(count, device=log_weights.device)
    return inverse_cdf(log_weights, (comb + rng.uniform(1, dtype=torch.float64)) / count)


def inverse_cdf(log_weights: Tensor, positions: Tensor) -> Tensor:
    """Return the particle in whose share of [0, 1) each position lies, (B, P), (B, n) -> (B, n)."""
    cumulative = log_weights.double().softmax(1).cumsum(1)
    # divided by its own end, or rounding could leave the last position to a particle of weight 0
    found = torch.searchsorted(cumulative / cumulative[:, -1:], positions, right=True)
    return found.clamp(max=log_weights.shape[1] - 1)


@dataclass(frozen=True)
class Posed:
    """A problem with what only its author knows.

    Attributes:
        problem: what a solver is given.
        x: the truth, (B, *shape).
        operator: the true one, also where the task is blind.
        theta: its parameters, as they were drawn.
    """

    problem: Problem
    x: Tensor
    operator: Operator
    theta: Theta

    def select(self, rows: Tensor) -> Posed:
        """Return some problems of the batch, (k,) int64 indices."""
        theta = {name: values[rows] for name, values in self.theta.items()}
        return Posed(self.problem.select(rows), self.x[rows], self.operator.select(rows), theta)

    def repeat(self, count: int, first: int = 0) -> Posed:
        """Return every problem ``count`` times, as :meth:`Problem.repeat` does."""
        rows = torch.arange(len(self.x), device=self.x.device).repeat_interleave(count)
        return replace(self.select(rows), problem=self.problem.repeat(count, first))

    def consistency(self, x: Tensor) -> Tensor:
        """Return ||A(x) - y|| / (noise_std sqrt(m)) of each image, (B,) float64; NaN for noiseless measurements.

        1 means a residual as large as the noise; well below 1 the noise itself was fitted. A is the true operator.
        """
        energy = squared_norm(self.problem.residual(x, self.operator).double()).cpu()
        scale = self.problem.noise_std.double().cpu() ** 2 * self.operator.num_measurements(len(x))
        return torch.where(scale > 0, (energy / scale).sqrt(), torch.nan)


def pose(task: Task, x: Tensor, prior: Prior, seed: int, image_ids: Sequence[str]) -> Posed:
    """Draw the operator and the measurement of a batch: a function of (seed, image_id) alone for each image.

    Args:
        x: ground truth, (B, *shape) in [-1, 1]; its device and dtype are those of the result.
        prior: what a solver is given; nothing is drawn from it.
        image_ids: B identifiers.
    """
    family = task.operator.family(tuple(x.shape[1:]), x.dtype, x.device)
    theta = family.parameters(image_rng(seed, image_ids, "operator", x.device))
    operator = family.at(theta)
    y = task.noise.apply(operator.forward(x), image_rng(seed, image_ids, "measurement", x.device))
    support = operator.support()
    y = y if support is None else y * support
    noise_std = torch.full((len(x),), task.noise.std, dtype=torch.float64, device=x.device)
    rng = image_rng(seed, image_ids, "solver", x.device)
    return Posed(Problem(y, noise_std, family if task.blind else operator, prior, rng), x, operator, theta)

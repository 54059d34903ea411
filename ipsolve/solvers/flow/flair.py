"""FLAIR: variational inference with a flow as the prior, decoupled from hard data consistency.

Erbach, Narnhofer, Dombos, Schiele, Lenssen & Schindler 2025, "Solving Inverse Problems with FLAIR" (arXiv 2506.02680).
From mu = E(A^+ y) and z_1 ~ N(0, I), at times t that fall evenly from 1 to t_min, both ends left out:

    eps = a z_1 + sqrt(1 - a^2) n,  a = 1 - t               trajectory adjustment: the noise follows the path
    z_t = (1 - t) mu + t eps,   z_1 <- z_t + (1 - t) v(z_t)
    mu <- mu - lambda_t (v(z_t) - (eps - mu))               flow matching as the regulariser
    mu <- mu - data_lr lambda_t grad ||A(D(mu)) - y||^2     until ||.||^2 <= tau^2 m sigma^2, at most data_steps times

lambda_t = weight e_t^-1 / mean_u e_u^-1 trusts the prior where its velocity is accurate; e_t is its mean squared
error. As v - (eps - mu) = (mu - E[z_0 | z_t]) / t, with a = 0 and without data steps it is RED-diff in another weight.
The method seeks a mode. A prior of another kind is seen as a flow, exactly
(:func:`ipsolve.priors.coordinates.as_flow`).

The authors tabulate e_t of their network on a data set. Where ``errors`` is null it is here the closed form for z_0 ~
N(0, I), 1 / ((1 - t)^2 + t^2); :func:`ipsolve.solvers.flow.calibration.velocity_errors` measures it on samples of the
prior itself, and sees no truth. The table is interpolated (the authors' code, read at 8e52045, takes its nearest entry)
and A^+ damped by noise_std^2. The code's optional projection and its other weights are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.priors.coordinates import as_flow
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.flow.calibration import white_errors
from ipsolve.solvers.steps.optimise import Objective, descend

Errors = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2)]


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FLAIR(Solver):
    """FLAIR. The presets are the step sizes of the authors' code.

    Args:
        t_min: times fall towards it.
        weight: mean of lambda_t over all times.
        errors: e_t at evenly spaced times from t = 1 to t = 0; null is that of a white prior.
        trajectory_adjustment: keep 1 - t of the noise that the last step led to; false draws all of it anew.
        data_steps: gradient steps on the data at each time, at most.
        data_lr: their size; steps above 1 / (lambda_t ||A||^2 ||dD||^2) diverge.
        discrepancy: tau.
    """

    name: ClassVar[str] = "flair"
    citation: ClassVar[Citation] = Citation(
        key="erbach2025flair",
        authors="Erbach, Julius and Narnhofer, Dominik and Dombos, Andreas and Schiele, Bernt and Lenssen, Jan Eric "
        "and Schindler, Konrad",
        title="Solving Inverse Problems with FLAIR",
        year=2025,
        venue="NeurIPS",
        arxiv="2506.02680",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "super_resolution": {"data_lr": 12.0},
        "motion_blur": {"data_lr": 0.1},
        "inpainting": {"data_lr": 0.1},
    }

    num_steps: Annotated[int, Field(ge=1)] = 50
    t_min: Annotated[float, Field(ge=0, lt=1)] = 0.18
    weight: Annotated[float, Field(ge=0)] = 0.5
    errors: Errors | None = None
    trajectory_adjustment: bool = True
    data_steps: Annotated[int, Field(ge=0)] = 15
    data_lr: Annotated[float, Field(gt=0)] = 0.1
    discrepancy: Annotated[float, Field(ge=0)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        if "latent" not in traits:
            return Cost(denoiser=self.num_steps)
        fitted = self.num_steps * self.data_steps
        up_to = frozenset({"decoder", "decoder_backward"})
        return Cost(denoiser=self.num_steps, decoder=fitted + 1, decoder_backward=fitted, encoder=1, up_to=up_to)

    def solve(self, problem: Problem) -> Tensor:
        prior = as_flow(problem.prior)
        problem = replace(problem, prior=prior)
        mu = prior.encode(problem.linear_operator.pinv(problem.y, problem.noise_std**2))
        z_1 = problem.noise()
        for level in self._levels(prior.schedule):
            t, weight = level.sigma, self._weight(level.sigma)
            kept = 1 - t if self.trajectory_adjustment else 0.0
            eps = kept * z_1 + (1 - kept**2) ** 0.5 * problem.noise()
            z_t = (1 - t) * mu + t * eps
            z_0 = prior.denoise(z_t, level)
            v = (z_t - z_0) / t
            z_1 = z_t + (1 - t) * v
            mu = mu - weight * (v - (eps - mu))
            mu = self._consistent(problem, mu, weight)
        return prior.decode(mu)

    def _levels(self, schedule: Schedule) -> list[Level]:
        times = np.linspace(1.0, self.t_min, self.num_steps + 2)[1:-1]
        return [schedule.at_ratio(float(t / (1 - t))) for t in times]

    def _weight(self, t: float) -> float:
        """Return lambda_t."""
        errors = np.asarray(white_errors(101) if self.errors is None else self.errors)
        trust = 1 / errors
        times = np.linspace(0.0, 1.0, len(trust))
        return float(self.weight * np.interp(t, times, trust[::-1]) / trust.mean())

    def _consistent(self, problem: Problem, mu: Tensor, weight: float) -> Tensor:
        """Return mu after gradient steps down to the level of the noise."""

        def objective_of(rows: Tensor) -> Objective:
            part = problem.select(rows)
            return lambda z: squared_norm(part.residual(part.prior.decode(z)))

        m = problem.known_operator.num_measurements(len(mu)).to(mu)
        return descend(
            objective_of,
            mu,
            step_size=self.data_lr * weight,
            max_iterations=self.data_steps,
            threshold=(self.discrepancy * problem.noise_std.to(mu)) ** 2 * m,
        )

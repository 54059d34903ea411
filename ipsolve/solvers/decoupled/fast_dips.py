"""FAST-DIPS: the estimate of every noise level is moved into a ball around the data by a few analytic steps.

Kim, Shin & Lim 2026, "FAST-DIPS: Adjoint-Free Analytic Steps and Hard-Constrained Likelihood Correction for
Diffusion-Prior Inverse Problems" (arXiv 2603.01591). At each level, with s = sigma_t / alpha_t and a = E[x_0 | x_t],

    min_x ||x - a||^2 / (2 s^2)   subject to   ||A(x) - y|| <= epsilon

by K ADMM iterations from x = a, v = A(a), u = 0 on,

    x <- S steepest-descent steps on F(x) = ||x - a||^2 / (2 s^2) + rho / 2 ||A(x) - (v - u)||^2
    v <- the point nearest to A(x) + u in the ball
    u <- u + A(x) - v

and then the next level is entered with fresh noise, x_t = alpha_t x + sigma_t n. For the gradient g of F and J the
Jacobian of A, a step has the length that is best for the linearised A,

    ||g||^2 / (||g||^2 / s^2 + rho ||J g||^2),

at most ``alpha_max``, and is halved until F does not rise. An estimate that is in the ball already is not moved.

J g is A g for linear operators, where the length is the exact minimiser and nothing is halved; elsewhere it is a
forward difference over a move of root mean square 1e-3 (the paper offers this or a Jacobian-vector product).

Latent priors: while s is above ``sigma_switch`` the decoded estimate is moved, clipped and encoded; below it the latent
itself, with A(D(z)) in the place of A(x). The one is cheap, the other stays in the range of the decoder.

Departures of the authors' code: for pixel priors it returns the estimate a of the last level instead of the corrected x
(``correct_last: false``), clips the answer to [-1, 1], takes a step that raises F after the last halving, where ours is
not taken, and its levels stop one before ``sigma_min``. All images of a batch share epsilon there; null here is
noise_std sqrt(m), what the noise alone leaves, instead of the published constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image, squared_norm
from ipsolve.priors.schedules import Level
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.annealing import levels_between
from ipsolve.solvers.steps.diffusion import initial_state

_HALVINGS = 8  # of a step that raises F; the authors' number
_PROBE = 1e-3  # root mean square of the move behind a forward difference

_LATENT = {"sigma_max": 10.0}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FastDIPS(Solver):
    """FAST-DIPS in pixels, in latents, or first in the ones and then in the others.

    The defaults are published for super-resolution and inpainting with a pixel prior (Table 2 of the paper); the
    presets are the rest of the table.

    Args:
        num_steps: levels, spaced as in EDM with ``rho`` 7 between sigma_max and sigma_min in sigma_t / alpha_t (clipped
            to what the prior was trained on).
        iterations: K.
        descent_steps: S.
        rho: penalty of ADMM.
        epsilon: radius of the ball, in units of ||A(x) - y||; null is noise_std sqrt(m).
        alpha_max: limit on the length of a step.
        sigma_switch: the ratio sigma_t / alpha_t down to which a latent prior is corrected in pixels; 0 is always.
        correct_last: correct the estimate of the last level too.
    """

    name: ClassVar[str] = "fast_dips"
    citation: ClassVar[Citation] = Citation(
        key="kim2026fastdips",
        authors="Kim, Minwoo and Shin, Seunghyeok and Lim, Hongki",
        title="FAST-DIPS: Adjoint-Free Analytic Steps and Hard-Constrained Likelihood Correction for Diffusion-Prior "
        "Inverse Problems",
        year=2026,
        venue="ICLR",
        arxiv="2603.01591",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deblurring": {"num_steps": 50, "descent_steps": 2},
        "non_linear": {"num_steps": 150, "iterations": 2, "descent_steps": 5},
        "hdr": {"num_steps": 150, "iterations": 2, "descent_steps": 5, "rho": 5.0},
        "latent": {**_LATENT, "num_steps": 50, "iterations": 5, "descent_steps": 3},
        "latent_non_linear": {**_LATENT, "num_steps": 25, "iterations": 10, "descent_steps": 3, "sigma_switch": 5.0},
    }

    num_steps: Annotated[int, Field(ge=1)] = 75
    sigma_max: Annotated[float, Field(gt=0)] = 100.0
    sigma_min: Annotated[float, Field(gt=0)] = 0.1
    iterations: Annotated[int, Field(ge=1)] = 3
    descent_steps: Annotated[int, Field(ge=1)] = 1
    rho: Annotated[float, Field(gt=0)] = 200.0
    epsilon: Annotated[float, Field(ge=0)] | None = 0.05
    alpha_max: Annotated[float, Field(gt=0)] = 1.0
    sigma_switch: Annotated[float, Field(ge=0)] = 1.0
    correct_last: bool = True

    def cost(self, traits: Traits) -> Cost:
        calls = Cost(denoiser=self.num_steps)
        if "latent" not in traits:
            return calls
        # where the levels meet sigma_switch depends on the schedule, so that these are bounds
        moved = self.num_steps * self.iterations * self.descent_steps
        return replace(
            calls,
            decoder=self.num_steps + moved * (3 + _HALVINGS) + 1,
            decoder_backward=moved,
            encoder=self.num_steps,
            up_to=frozenset({"decoder", "decoder_backward", "encoder"}),
        )

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = levels_between(prior.schedule, self.num_steps, self.sigma_max, self.sigma_min)
        x = initial_state(problem, levels[0])
        for step, t in enumerate(levels):
            x_0 = prior.denoise(x, t)
            last = step + 1 == len(levels)
            if self.correct_last or not last:
                x_0 = self._corrected(problem, x_0, t)
            if not last:
                s = levels[step + 1]
                x = s.alpha * x_0 + s.sigma * problem.noise()
        return prior.decode(x_0)

    def _corrected(self, problem: Problem, x_0: Tensor, t: Level) -> Tensor:
        """Return the state near an estimate whose measurement is in the ball, approximately."""
        prior = problem.prior
        if prior.latent and t.ratio > self.sigma_switch:
            return prior.encode(self._project(problem, prior.decode(x_0), t.ratio**2, latent=False).clamp(-1, 1))
        return self._project(problem, x_0, t.ratio**2, latent=prior.latent)

    def _project(self, problem: Problem, a: Tensor, variance: float, *, latent: bool) -> Tensor:
        """Return x near a with ||A(x) - y|| <= epsilon, by ADMM; x is an image, or a latent and A(D(x)) is meant."""
        radius, x, measured = self._radius(problem), a, _residual(problem, a, latent)
        v, u = measured, torch.zeros_like(measured)  # v - y, so that the ball is around 0
        for _ in range(self.iterations):
            for _ in range(self.descent_steps):
                x, measured = self._descend(problem, x, a, v - u, variance, latent)
            w = measured + u
            shrink = (radius / norm(w).clamp_min(torch.finfo(w.dtype).tiny)).clamp(max=1.0)
            v = per_image(shrink, w) * w
            u = w - v
        return x

    def _radius(self, problem: Problem) -> Tensor:
        if self.epsilon is not None:
            return torch.full_like(problem.noise_std, self.epsilon)
        m = problem.known_operator.num_measurements(problem.batch_size).to(problem.noise_std)
        return problem.noise_std * m.sqrt()

    def _descend(
        self, problem: Problem, x: Tensor, a: Tensor, target: Tensor, variance: float, latent: bool
    ) -> tuple[Tensor, Tensor]:
        """Return x after a steepest-descent step on F, and its A(x) - y; ``target`` is v - u, of which y is taken."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            measured = _residual(problem, point, latent)
            slope = torch.autograd.grad(measured, point, measured.detach() - target)[0]
        measured = measured.detach()
        g = (x - a) / variance + self.rho * slope
        steepness = squared_norm(g)
        exact = problem.known_operator.linear and not latent
        curvature = steepness / variance + self.rho * self._along(problem, x, g, measured, exact, latent)
        moves = curvature > 0
        length = torch.where(moves, steepness / torch.where(moves, curvature, 1.0), 0.0).clamp(max=self.alpha_max)
        if exact:  # the minimiser along g: nothing to be halved
            x = x - per_image(length, g) * g
            return x, _residual(problem, x, latent)
        energy = self._energy(x - a, measured - target, variance)
        result, reached, rows = x.clone(), measured.clone(), torch.arange(len(x), device=x.device)
        for _ in range(1 + _HALVINGS):
            trial = x[rows] - per_image(length[rows], g) * g[rows]
            there = _residual(problem.select(rows), trial, latent)
            falls = self._energy(trial - a[rows], there - target[rows], variance) <= energy[rows]
            result[rows[falls]], reached[rows[falls]] = trial[falls], there[falls]
            rows = rows[~falls]
            if len(rows) == 0:
                break
            length = length / 2
        return result, reached

    def _along(self, problem: Problem, x: Tensor, g: Tensor, measured: Tensor, exact: bool, latent: bool) -> Tensor:
        """Return ||J g||^2, (B,)."""
        if exact:
            support = problem.known_operator.support()
            image = problem.known_operator.forward(g)
            return squared_norm(image if support is None else image * support)
        probe = _PROBE * (g[0].numel() / squared_norm(g).clamp_min(torch.finfo(g.dtype).tiny)).sqrt()
        moved = _residual(problem, x + per_image(probe, g) * g, latent)
        return squared_norm((moved - measured) / per_image(probe, moved))

    def _energy(self, offset: Tensor, misfit: Tensor, variance: float) -> Tensor:
        return squared_norm(offset) / (2 * variance) + self.rho / 2 * squared_norm(misfit)


def _residual(problem: Problem, x: Tensor, latent: bool) -> Tensor:
    return problem.residual(problem.prior.decode(x) if latent else x)

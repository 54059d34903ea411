"""LATINO: a noisy auto-encoder and a proximal step in turns, without a gradient of any network.

Spagnoletti, Prost, Almansa, Papadakis & Pereyra 2025, "LATINO-PRO: LAtent consisTency INverse sOlver with PRompt
Optimization" (arXiv 2503.12615), a splitting of the Langevin diffusion of the posterior. For falling times t, from
x = A^+ y:

    z_t = alpha_t E(x) + sigma_t n
    x'  = D(G(z_t, t))
    x   = argmin_x ||A(x) - y||^2 + noise_std^2 / (delta v_t) ||x - x'||^2,    v_t = sigma_t^2 / (alpha_t^2 + sigma_t^2)

v_t is 1 - ab_t for variance preserving priors. G is the one-call map from noise to an image: the consistency function
of a consistency prior, for which the method is made. It is ``prior.denoise`` here, so that with a diffusion prior it is
the posterior mean, which is smoother, the more so at high noise. Pixel priors: E = D = I. Its samples are less spread
than the posterior.

The times are 1000, 875, ..., 125 of 1000 for 8 steps, as in the authors' code (999, ..., 124 of its table, which starts
at 0). Departures of that code: its delta is a number for each task, half of the path and residual norm, delta_k =
c ||A(x') - y|| (``residual_delta``, with delta for c; the numbers, for images of 1024 x 1024, are not repeated here);
it starts from A^T y, decodes the encoded last image once more, and clips images to [-1, 1]. Prompt optimisation
(LATINO-PRO) is left out. How the paper sets delta was not checked: it has a sequence delta_k, here it is one number.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import vp_scale
from ipsolve.solvers.steps.proximal import data_prox


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class LATINO(Solver):
    """LATINO.

    Args:
        num_steps: calls of G, at times evenly spaced on the 1000-step grid of the schedule.
        delta: step size of the splitting; the larger, the closer to the data.
        residual_delta: multiply delta by ||A(x') - y||, each image by its own.
        start: x begins at ``pinv``, A^+ y damped by noise_std^2 (linear operators only), or at ``zeros``.
        prox_iterations, prox_lr: gradient steps that stand for the proximal step of a non-linear A, see
            :func:`ipsolve.solvers.steps.proximal.data_prox`.
    """

    name: ClassVar[str] = "latino"
    citation: ClassVar[Citation] = Citation(
        key="spagnoletti2025latino",
        authors="Spagnoletti, Alessio and Prost, Jean and Almansa, Andr{\\'e}s and Papadakis, Nicolas and "
        "Pereyra, Marcelo",
        title="LATINO-PRO: LAtent consisTency INverse sOlver with PRompt Optimization",
        year=2025,
        venue="ICCV",
        arxiv="2503.12615",
    )

    num_steps: Annotated[int, Field(ge=1, le=1000)] = 8
    delta: Annotated[float, Field(gt=0)] = 1.0
    residual_delta: bool = False
    start: Literal["pinv", "zeros"] = "pinv"
    prox_iterations: Annotated[int, Field(ge=1)] = 20
    prox_lr: Annotated[float, Field(gt=0)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        coded = self.num_steps if "latent" in traits else 0
        return Cost(denoiser=self.num_steps, decoder=coded, encoder=coded)

    def needs(self) -> Traits:
        return super().needs() | ({"linear"} if self.start == "pinv" else set())

    def check(self, task: Task, prior: Traits) -> None:
        if self.start == "pinv" and not task.operator.linear:
            what = f"needs a linear operator, {task.operator.name} is not"
            raise RequestError(f"solver {self.name} with start=pinv {what}; allowed: start=zeros")
        super().check(task, prior)

    def solve(self, problem: Problem) -> Tensor:
        prior, x = problem.prior, self._start(problem)
        for t in self._levels(prior.schedule):
            z_t = t.alpha * prior.encode(x) + t.sigma * problem.noise()
            image = prior.decode(prior.denoise(z_t, t))
            x = self._prox(problem, image, (t.sigma / vp_scale(t)) ** 2)
        return x

    def _levels(self, schedule: Schedule) -> list[Level]:
        return [schedule.thousandth(1000 - 1000 * i // self.num_steps) for i in range(self.num_steps)]

    def _start(self, problem: Problem) -> Tensor:
        if self.start == "pinv":
            return problem.linear_operator.pinv(problem.y, problem.noise_std**2)
        return problem.y.new_zeros(problem.batch_size, *problem.prior.image_shape)

    def _prox(self, problem: Problem, image: Tensor, variance: float) -> Tensor:
        weight = problem.noise_std**2 / (self.delta * variance)
        if self.residual_delta:  # an image that fits already has nothing to move for
            weight = weight / norm(problem.residual(image)).to(weight).clamp_min(1e-12)
        return data_prox(problem, image, weight, iterations=self.prox_iterations, lr=self.prox_lr)

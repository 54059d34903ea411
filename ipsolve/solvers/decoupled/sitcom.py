"""SITCOM: optimise the input of the denoiser until its output fits the measurement.

Alkhouri, Liang, Huang, Dai, Qu, Ravishankar & Wang 2025, "SITCOM: Step-wise Triple-Consistent Diffusion Sampling for
Inverse Problems" (arXiv 2410.04479). With f(v) = E[x_0 | x_t = v], at each of N levels:

    v   = argmin_v ||A(f(v)) - y||^2 + lambda ||v - x_t||^2    by at most K Adam steps from x_t on
    x_s = alpha_s f(v) + sigma_s fresh noise

An image leaves the optimisation once ||A(f(v)) - y||^2 < (noise_std + stop_margin)^2 m, the discrepancy principle: its
residual is then what noise alone would leave. Latent priors: A(D(f(v))).

On schedules that do not preserve variance Adam moves v / sqrt(alpha_t^2 + sigma_t^2), so that ``lr`` means the same
at every level; for variance-preserving priors that is v itself.

Departures of the authors' code: it has no lambda term (the default here too), and clips f(v) to [-1, 1] (``clip``). An
image that is done leaves before its step (``stop``), and of K Adam steps the last does not count: x_0 is that of K - 1.
Its extra step on x_0 for inpainting is left out. It reports the best of all inner iterates as
judged by the ground truth; here the answer is the last estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped, initial_state
from ipsolve.solvers.steps.optimise import Objective, adamw


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class SITCOM(Solver):
    """SITCOM.

    Args:
        num_steps: N, levels.
        iterations: K, Adam steps per level at most.
        lambda_: weight of ||v - x_t||^2 (0 in the authors' code; their ablations try 0.05 to 1.5).
        lr: of Adam.
        stop_margin: added to noise_std in the stopping rule.
        stop: whether an image below the rule leaves ``after`` the step of that iteration, or ``before`` it, as in the
            authors' code.
        clip: clip images to [-1, 1] before they are compared with y, and the answer too; of pixel priors f(v) itself.
    """

    name: ClassVar[str] = "sitcom"
    citation: ClassVar[Citation] = Citation(
        key="alkhouri2025sitcom",
        authors="Alkhouri, Ismail and Liang, Shijun and Huang, Cheng-Han and Dai, Jimmy and Qu, Qing and "
        "Ravishankar, Saiprasad and Wang, Rongrong",
        title="SITCOM: Step-wise Triple-Consistent Diffusion Sampling for Inverse Problems",
        year=2025,
        venue="ICML",
        arxiv="2410.04479",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 30 steps there, of which the last does not count
        "official": {"iterations": 29, "lr": 0.02, "stop": "before", "clip": True},
    }

    num_steps: Annotated[int, Field(ge=1)] = 20
    timestep_spacing: Spacing | None = None
    iterations: Annotated[int, Field(ge=1)] = 20
    lambda_: Annotated[float, Field(ge=0)] = 0.0
    lr: Annotated[float, Field(gt=0)] = 0.01
    stop_margin: Annotated[float, Field(ge=0)] = 0.001
    stop: Literal["after", "before"] = "after"
    clip: bool = False

    def cost(self, traits: Traits) -> Cost:
        fitted = self.num_steps * self.iterations
        calls = Cost(self.num_steps + fitted, fitted, up_to=frozenset({"denoiser", "denoiser_backward"}))
        if "latent" not in traits:
            return calls
        up_to = calls.up_to | {"decoder", "decoder_backward"}
        return replace(calls, decoder=fitted + 1, decoder_backward=fitted, up_to=up_to)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x_t = initial_state(problem, levels[0])
        x_0 = x_t  # replaced in the first step
        for t, s in pairwise(levels):
            x_0 = prior.denoise(self._consistent_input(problem, x_t, t), t)
            x_0 = clipped(x_0, self.clip and not prior.latent)
            x_t = s.alpha * x_0 + s.sigma * problem.noise()
        return self._image(prior, x_0)

    def _image(self, prior: Prior, x_0: Tensor) -> Tensor:
        image = prior.decode(x_0)
        return image.clamp(-1, 1) if self.clip else image

    def _consistent_input(self, problem: Problem, x_t: Tensor, t: Level) -> Tensor:
        """Return v near x_t with A(f(v)) near y."""
        scale = math.hypot(t.alpha, t.sigma)

        def objective_of(rows: Tensor) -> Objective:
            part = problem.select(rows)
            return lambda u: squared_norm(part.residual(self._image(part.prior, part.prior.denoise(scale * u, t))))

        mean_square = (problem.noise_std + self.stop_margin) ** 2
        return scale * adamw(
            objective_of,
            x_t / scale,
            lr=self.lr,
            max_iterations=self.iterations,
            threshold=mean_square * problem.known_operator.num_measurements(problem.batch_size).to(x_t),
            weight_decay=0.0,
            proximity=self.lambda_ * scale**2,
            stop_before=self.stop == "before",
        )

"""MPGD: manifold preserving guided diffusion.

He et al. 2024, "Manifold Preserving Guided Diffusion" (arXiv 2311.16424). The guidance gradient is taken with respect
to the estimate x_0 itself, never through the denoiser:

    x_0' = x_0 - c / sqrt(ab_s) grad_{x_0} ||y - A(x_0)||
    x_s  = alpha_s x_0' + c_2 eps + sigma z        with eps, c_2 and sigma those of DDIM_eta at the old x_0

sqrt(ab_s) is alpha_s / sqrt(alpha_s^2 + sigma_s^2), so that a variance preserving x_s moves by c times the gradient.
For latent priors the autoencoder keeps the gradient on the manifold of images, in one of two ways (``manifold``):

    z     z_0' = z_0 - c / sqrt(ab_s) grad_{z_0} ||y - A(D(z_0))||
    ae    x_0  = D(z_0),  x_0' = x_0 - c / sqrt(ab_s) grad_{x_0} ||y - A(D(E(x_0)))||,  z_0' = E(x_0')

As in the authors' code the ae form counts in the middle of the trajectory only and with a smaller scale; elsewhere its
gradient is that of ||y - A(x_0)||. There the diffusion is in pixels beside an autoencoder that serves the gradient
alone, and the z form has window and scale too; here the state is the latent, so that z is the paper's form for latent
diffusion throughout and ae has to encode its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import clipped, ddim_step, gradient, initial_state, noise_in, vp_scale

AE_WINDOW = (0.3, 0.5)  # where, in remaining steps over all, the ae form is on
AE_SCALE = 0.0075  # of its c there; both from the authors' code


def _official(
    num_steps: int, guidance_scale: float, manifold: str = "z", clip_denoised: bool = False
) -> dict[str, Any]:
    grid = {"num_steps": num_steps, "timestep_spacing": "leading", "clip_denoised": clip_denoised}
    return {**grid, "guidance_scale": guidance_scale, "eta": 0.5, "manifold": manifold}


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MPGD(Solver):
    """MPGD with any differentiable operator.

    Presets are those of the authors' code for super-resolution by 4: ``sr4_*`` of its form without projection
    (``mpgd_wo_proj``), for pixel priors, ``z_sr4_*`` and ``ae_sr4_*`` of the other two, whose scales are of the code's
    forms of them (above).

    Args:
        guidance_scale: c.
        eta: of the DDIM steps.
        manifold: for latent priors, where the gradient is taken; a pixel prior has the one form, ``z`` with D = I.
        clip_denoised: clip x_0 to [-1, 1] as the authors' code does; for pixel priors of images.
    """

    name: ClassVar[str] = "mpgd"
    citation: ClassVar[Citation] = Citation(
        key="he2024mpgd",
        authors="He, Yutong and Murata, Naoki and Lai, Chieh-Hsin and others",
        title="Manifold Preserving Guided Diffusion",
        year=2024,
        venue="ICLR",
        arxiv="2311.16424",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sr4_20": _official(20, 17.5, clip_denoised=True),
        "sr4_50": _official(50, 7.5, clip_denoised=True),
        "sr4_100": _official(100, 4.0, clip_denoised=True),
        "z_sr4_20": _official(20, 20.0, "z"),
        "z_sr4_50": _official(50, 10.0, "z"),
        "z_sr4_100": _official(100, 5.0, "z"),
        "ae_sr4_20": _official(20, 20.0, "ae"),
        "ae_sr4_50": _official(50, 10.0, "ae"),
        "ae_sr4_100": _official(100, 5.0, "ae"),
    }

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    guidance_scale: Annotated[float, Field(ge=0)] = 4.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.5
    manifold: Literal["z", "ae"] = "z"
    clip_denoised: bool = False

    def cost(self, traits: Traits) -> Cost:
        n = self.num_steps
        if "latent" not in traits:
            return Cost(denoiser=n)
        if self.manifold == "z":
            return Cost(denoiser=n, decoder=n + 1, decoder_backward=n)
        through = sum(_is_on(self._remaining(step)) for step in range(n))
        return Cost(denoiser=n, decoder=n + through + 1, decoder_backward=through, encoder=n + through)

    def needs(self) -> Traits:
        wanted = ({"latent"} if self.manifold == "ae" else set()) | ({"pixel"} if self.clip_denoised else set())
        return super().needs() | wanted

    def check(self, task: Task, prior: Traits) -> None:
        if self.manifold == "ae" and "latent" not in prior:
            raise RequestError(f"solver {self.name} with manifold 'ae' needs a latent prior; allowed: manifold=z")
        super().check(task, prior)

    def _remaining(self, step: int) -> float:
        """Return the share of steps that come after a step."""
        return (self.num_steps - 1 - step) / self.num_steps

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        for step, (t, s) in enumerate(pairwise(levels)):
            z_0 = clipped(prior.denoise(z, t), self.clip_denoised)
            eps = noise_in(z, z_0, t)
            noise = problem.noise()
            scale = self.guidance_scale * vp_scale(s) / s.alpha
            if self.manifold == "z":
                z_0 = z_0 - scale * gradient(problem.distance, z_0)
            else:
                z_0 = _guide_image(problem, z_0, scale, self._remaining(step))
            z = ddim_step(z_0, eps, t, s, self.eta, noise)
        return prior.decode(z)


def _is_on(remaining: float) -> bool:
    return AE_WINDOW[0] < remaining < AE_WINDOW[1]


def _guide_image(problem: Problem, z_0: Tensor, scale: float, remaining: float) -> Tensor:
    """Return the latent of the guided image; ``remaining`` is the share of steps still to come."""
    x_0 = problem.prior.decode(z_0)
    if _is_on(remaining):
        update = AE_SCALE * gradient(lambda x: problem.distance(problem.prior.encode(x)), x_0)
    else:
        update = gradient(lambda x: norm(problem.residual(x)), x_0)
    return problem.prior.encode(x_0 - scale * update)

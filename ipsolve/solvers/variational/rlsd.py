"""RLSD: variational inference with particles that are held apart.

Zilberstein, Mardani & Segarra 2025, "Repulsive Latent Score Distillation for Solving Inverse Problems" (arXiv
2406.16683). P particles z_i of an image go down the noise levels together, one Adam step at each; with
z_it = alpha_t z_i + sigma_t n_i, the noise eps(z_it) that the denoiser finds, and w = w_t sigma_t / alpha_t,

    g_i = eps(z_it) - n_i - gamma sigma_t' R_i
    R_i = J_i^T sum_{j != i} (2 / h_i) k_ij (v_i - v_j) / sum_{j != i} k_ij,    k_ij = exp(-||v_i - v_j||^2 / h_i),

v_i the features of the noisy particle, J_i their Jacobian, h_i = median_j ||v_i - v_j||^2 / log(P + 1), and sigma_t'
and the noisy particle behind v_i as for variance preserving states. R_i points away from the others. Two forms:

* ``augmented``, RLSD: images x_i are fitted to the data and held to the D(z_i), in turns,
      z_i: ||x_i - D(z_i)||^2 / (2 n) + w / rho <g_i, z_i> / d
      x_i: ||A(x_i) - y||^2 / (2 m) + rho ||x_i - D(z_i)||^2 / (2 n)
* otherwise, RSD: ||A(D(z_i)) - y||^2 / (2 m) + w <g_i, z_i> / d, which is RED-diff for each particle if gamma = 0.

n, d and m are the entries of an image, of a latent and of y. The answer is x_i, or D(z_i), as samples of equal weight.
Without repulsion particles do not know of each other.

Departures of the authors' code. Its h_i has log(P - 1), which is 0 for two particles: they do not repel. Its kernel
compares features of a DINO network, which is not here: pixels of the decoded noisy particle do (``features: image``),
or its latent, which needs no decoder. Its repulsion is off (gamma 0) except for phase retrieval, 30, the default here;
distances of pixels are others than those of its features. Its means over particles too tie the step of each to their
number. A level without signal, alpha_t = 0, is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.tasks import Task
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem, Solution
from ipsolve.requests.errors import RequestError
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost
from ipsolve.solvers.steps.diffusion import gradient, noise_in, vp_scale
from ipsolve.solvers.steps.particles import ParticleSolver, clouds


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class RLSD(ParticleSolver):
    """RLSD and RSD. The defaults are published for the half of a face (Stable Diffusion, 512 x 512).

    Args:
        num_steps: one Adam step (of each of x and z) per level.
        num_particles: P.
        gamma: strength of the repulsion; 0 is none.
        features: what the kernel compares; a pixel prior has one kind.
        augmented: whether x_i stands between z_i and the data.
        rho: weight of x_i against D(z_i).
        w_t: weight of the prior; it multiplies sigma_t / alpha_t.
        lr_z, lr_x: of Adam, with betas 0.9 and 0.99. Without ``augmented`` there is lr_z only.
        start: particles begin at ``noise``, N(0, I), or all at ``pinv``, A^+ y (linear operators only).
    """

    name: ClassVar[str] = "rlsd"
    citation: ClassVar[Citation] = Citation(
        key="zilberstein2025rlsd",
        authors="Zilberstein, Nicolas and Mardani, Morteza and Segarra, Santiago",
        title="Repulsive Latent Score Distillation for Solving Inverse Problems",
        year=2025,
        venue="ICLR",
        arxiv="2406.16683",
    )
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "super_resolution": {"rho": 0.05, "w_t": 0.01, "lr_x": 0.4, "lr_z": 0.6, "num_particles": 2, "gamma": 0.0},
        "half_face": {"rho": 0.07, "w_t": 0.15, "lr_x": 0.4, "lr_z": 0.8, "num_particles": 4, "gamma": 0.0},
        "phase_retrieval": {"rho": 0.07, "w_t": 0.02, "lr_x": 0.6, "lr_z": 0.6, "num_particles": 6, "gamma": 30.0},
    }

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 4
    gamma: Annotated[float, Field(ge=0)] = 30.0
    features: Literal["image", "latent"] = "image"
    augmented: bool = True
    rho: Annotated[float, Field(gt=0)] = 0.07
    w_t: Annotated[float, Field(ge=0)] = 0.15
    lr_z: Annotated[float, Field(gt=0)] = 0.8
    lr_x: Annotated[float, Field(gt=0)] = 0.4
    start: Literal["noise", "pinv"] = "noise"

    def cost(self, traits: Traits) -> Cost:
        calls = self.num_steps * self.num_particles
        if "latent" not in traits:
            return Cost(denoiser=calls)
        compared = calls if self._repels and self.features == "image" else 0
        encoded = self.num_particles if self.start == "pinv" else 0
        return Cost(
            denoiser=calls,
            decoder=calls + self.num_particles + compared,
            decoder_backward=calls + compared,
            encoder=encoded,
        )

    def needs(self) -> Traits:
        return super().needs() | ({"linear"} if self.start == "pinv" else set())

    def check(self, task: Task, prior: Traits) -> None:
        if self.start == "pinv" and not task.operator.linear:
            what = f"needs a linear operator, {task.operator.name} is not"
            raise RequestError(f"solver {self.name} with start=pinv {what}; allowed: start=noise")
        super().check(task, prior)

    @property
    def _repels(self) -> bool:
        return self.gamma > 0 and self.num_particles > 1

    def solve(self, problem: Problem) -> Solution:
        swarm = self.swarm(problem)
        prior = swarm.prior
        z, x = self._start(problem, swarm)
        optimise_z = torch.optim.Adam([z], lr=self.lr_z, betas=(0.9, 0.99))
        optimise_x = torch.optim.Adam([x], lr=self.lr_x, betas=(0.9, 0.99))
        image, pullback = _decode_with_pullback(prior, z)
        for t in prior.schedule.levels(self.num_steps, self.timestep_spacing)[:-1]:
            noise = self.noise(problem)
            if t.alpha == 0:  # pure noise says nothing about z, with infinite weight
                continue
            z_t = t.alpha * z + t.sigma * noise
            g = noise_in(z_t, prior.denoise(z_t, t), t) - noise - self._repulsion(prior, z_t, t)
            pull = self.w_t * t.ratio * g / z[0].numel()
            if not self.augmented:
                z.grad = pullback(gradient(swarm.image_mean_square, image) / 2) + pull
                optimise_z.step()
                image, pullback = _decode_with_pullback(prior, z)
                continue
            z.grad = pullback((image - x) / x[0].numel()) + pull / self.rho
            optimise_z.step()
            image, pullback = _decode_with_pullback(prior, z)
            x.grad = gradient(swarm.image_mean_square, x) / 2 + self.rho * (x - image) / x[0].numel()
            optimise_x.step()
        return self.equally_weighted(x if self.augmented else image)

    def _start(self, problem: Problem, swarm: Problem) -> tuple[Tensor, Tensor]:
        """Return z and x of all particles; x counts for nothing without ``augmented``."""
        if self.start == "noise":
            z = self.noise(problem)
            if not self.augmented:
                return z, z.new_zeros(len(z), *problem.prior.image_shape)
            shape = self.num_particles, *problem.prior.image_shape
            return z, problem.rng.normal(*shape, dtype=z.dtype).flatten(0, 1)
        x = swarm.linear_operator.pinv(swarm.y, swarm.noise_std**2)
        return swarm.prior.encode(x).detach().clone(), x.detach().clone()

    def _repulsion(self, prior: Prior, z_t: Tensor, t: Level) -> Tensor | float:
        """Return gamma sigma_t' R for all particles."""
        if not self._repels:
            return 0.0
        scale = vp_scale(t)
        if self.features == "image":
            v, pullback = _decode_with_pullback(prior, z_t / scale)
            away = pullback(repulsion(v, self.num_particles))
        else:
            away = repulsion(z_t / scale, self.num_particles)
        return self.gamma * t.sigma / scale * away


def repulsion(v: Tensor, num_particles: int) -> Tensor:
    """Return sum_{j != i} (2 / h_i) k_ij (v_i - v_j) / sum_{j != i} k_ij for features v, (B * P, ...), within images.

    Particles of the same features do not repel each other.
    """
    cloud = clouds(v.flatten(1), num_particles)
    squared = torch.stack([(cloud[:, [i]] - cloud).square().sum(2) for i in range(num_particles)], 1)
    itself = torch.eye(num_particles, dtype=torch.bool, device=v.device)
    others = squared[:, ~itself].reshape(len(cloud), num_particles, num_particles - 1)
    h = others.median(2).values[..., None] / torch.log(torch.tensor(num_particles + 1.0, dtype=v.dtype))
    apart = h > 0
    h = torch.where(apart, h, 1.0)
    kernel = torch.where(apart, (-squared / h).exp(), 0.0).masked_fill(itself, 0.0)
    weight = 2 / h * kernel / kernel.sum(2, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    # sum_j w_ij (v_i - v_j)
    return (weight.sum(2, keepdim=True) * cloud - weight @ cloud).reshape(v.shape)


def _decode_with_pullback(prior: Prior, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return D(z) and the map v -> J^T v with its Jacobian, good for one call."""
    with torch.enable_grad():
        point = z.detach().clone().requires_grad_()
        image = prior.decode(point)
    return image.detach(), lambda v: torch.autograd.grad(image, point, v)[0]

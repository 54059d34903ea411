"""LDM-VQ-4 at 256 pixels, random weights, on a GPU: images per second against batch size, precision, torch.compile.

One unit of work is what a guided step costs: a denoiser call, and a decoder call with its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from benchmarks.harness import Options, Row, Skipped, cores, say, take_turns
from ipsolve.priors import Execution, LatentPrior
from ipsolve.priors.networks.ldm_vq4 import random_init


def rows(options: Options) -> list[Row]:
    if not torch.cuda.is_available():
        raise Skipped("it needs a CUDA device: a step of this prior takes tens of seconds on a CPU")
    sizes = [1] if options.quick else [1, 2, 4, 8, 16, 32]
    found = []
    for precision in ("float32", "bfloat16"):
        for compiled in (False,) if options.quick else (False, True):
            setting = {"precision": precision, "compiled": compiled}
            found += options.apart(measure, cores(), **setting, batch_sizes=sizes, rounds=options.rounds_or(5))
    return found


def measure(precision: str, compiled: bool, batch_sizes: list[int], rounds: int) -> list[Row]:
    prior = random_init(execution=Execution("cuda", precision, compiled))  # type: ignore[arg-type]
    level = prior.schedule.levels(10)[5]
    found = []
    for batch_size in batch_sizes:
        z = torch.randn(batch_size, *prior.latent_shape, device="cuda")
        arms: dict[str, Callable[[], None]] = {
            "denoise": lambda z=z: _denoise(prior, z, level),  # type: ignore[misc]
            "decode and back": lambda z=z: _decode_and_back(prior, z),  # type: ignore[misc]
        }
        torch.cuda.reset_peak_memory_stats()
        try:
            take_turns(arms, 2)  # compiles, chooses kernels
            seconds = take_turns(arms, rounds)
        except torch.OutOfMemoryError:
            say(f"batch {batch_size} does not fit into memory ({precision})")
            break
        step = sum(median(seconds[name]) for name in arms)
        found.append(
            {
                "precision": precision,
                "compile": "yes" if compiled else "no",
                "batch": batch_size,
                **{f"{name} ms": 1000 * median(seconds[name]) for name in arms},
                "guided steps/s": batch_size / step,
                "images/s at 500 steps": batch_size / step / 500,
                "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
                "rounds": rounds,
            }
        )
        say(f"{precision}, compile {compiled}, batch {batch_size}: {batch_size / step:.2f} guided steps/s")
    return found


@torch.no_grad()
def _denoise(prior: LatentPrior, z: torch.Tensor, level: object) -> None:
    prior.denoise(z, level)  # type: ignore[arg-type]


def _decode_and_back(prior: LatentPrior, z: torch.Tensor) -> None:
    point = z.detach().requires_grad_()
    torch.autograd.grad(prior.decode(point).square().mean(), point)

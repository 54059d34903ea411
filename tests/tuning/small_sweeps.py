"""Small sweeps with a known answer, and a driver of them without Ray."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from ipsolve.conventions import to_uint8
from ipsolve.priors import PriorSpec, PriorSummary, load_prior, prior_spec
from ipsolve.priors.base import Prior
from ipsolve.priors.networks.unet import Precision
from ipsolve.randomness import ImageRng
from ipsolve.requests.validation import build
from ipsolve.runs.results import RunFolder
from tuning.config import SweepConfig
from tuning.ledger import Ledger
from tuning.problem import Scores
from tuning.request import Sweep
from tuning.trial import Bench, Place

SIZE = 16
STD = 0.2  # of the prior, and of the noise; the default of signal_std is another, 0.3
FOUND = {"num_trials": 24, "rungs": [2, 4, 8], "num_startup": 6}
PRIOR = {"prior": "mixture", "image_shape": [3, SIZE, SIZE], "num_components": 1, "spread": 0.0, "std": STD}


def draw_images(folder: Path, n: int = 8) -> Path:
    """Write images drawn from N(0, STD^2 I), the prior.

    Their best linear estimate from y = x + N(0, STD^2) is STD^2 / (STD^2 + noise_std^2) y, which is what the
    pseudo-inverse gives for signal_std = STD and for no other value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x = load_prior(PRIOR).sample(ImageRng(torch.arange(n)))  # type: ignore[attr-defined]
    for i, pixels in enumerate(to_uint8(x.float()).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def mapping(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a sweep whose best point is signal_std = STD."""
    return {
        "name": "small",
        "data": {"source": str(draw_images(folder / "images"))},
        "prior": PRIOR,
        "tasks": {"denoise": {"operator": "denoising", "noise_std": STD}},
        "solver": {"solver": "pseudo_inverse"},
        "space": {"signal_std": {"log": [0.02, 2]}},
        "objective": {"metric": "psnr"},
        "search": FOUND,
        "compute": {"batch_size": 4},
        "evaluate": {"data": {"source": "portraits:test", "limit": 4}, "metrics": ["psnr"]},
        "output": str(folder),
        **changes,
    }


def sweep(folder: Path, **changes: Any) -> Sweep:
    """Return a small sweep, checked."""
    return Sweep.of(build(SweepConfig, mapping(folder, **changes), "config"))


@dataclass
class Driven:
    """A sweep and what became of it."""

    sweep: Sweep
    run: RunFolder
    ledger: Ledger
    scores: Scores
    said: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images done by all trials."""
        return sum(trial.user_attrs.get("images", 0) for trial in self.ledger.trials())


def drive(trial: Sweep, rungs: int | None = None) -> Driven:
    """Run a sweep in this process, one trial after the other; ``rungs``: die after so many of them."""
    run = RunFolder(trial.config.run_location)
    os.makedirs(run.root, exist_ok=True)
    said: list[str] = []
    ledger = Ledger(trial, run, said.append)
    problem = trial.problem()
    bench = Bench(problem, Place(run.root, "cpu", 1))
    while (asked := ledger.ask()) is not None:
        number, fields = asked
        for n in problem.rungs:
            if rungs == 0:
                return Driven(trial, run, ledger, bench.scores, said)
            rungs = None if rungs is None else rungs - 1
            report = bench.measure(fields, n)
            if report.error is not None or n == problem.rungs[-1] or ledger.report(number, report):
                ledger.finish(number, report)
                break
    return Driven(trial, run, ledger, bench.scores, said)


@dataclass(frozen=True)
class CountedPrior(PriorSpec):
    """The prior, which leaves a file for each time that a process loads it."""

    name: ClassVar[str] = "counted"
    folder: str

    def summary(self) -> PriorSummary:
        return PriorSummary((3, SIZE, SIZE), latent=False)

    def fingerprint(self) -> str:
        return prior_spec(PRIOR).fingerprint()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Prior:
        Path(self.folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return load_prior(PRIOR, device, precision)

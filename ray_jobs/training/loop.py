"""The training loop that both stages share: steps, evaluation, checkpoints, continuation."""

from __future__ import annotations

import hashlib
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import ray.train
import torch
from ray.train.torch import get_device

from ray_jobs.training.config import Compute
from ray_jobs.training.tracking import Tracker

_STATE = "state.pt"


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Stage(ABC):
    """One network in training, as one worker sees it. Built anew after a crash, then filled from a checkpoint."""

    name: str
    steps: int
    eval_every: int
    checkpoint_every: int
    images_per_step: int

    @abstractmethod
    def train_step(self, step: int) -> dict[str, float]:
        """Take one optimiser step on the batch of ``step``; return what the curve shows of it."""

    @abstractmethod
    def evaluate(self, step: int, tracker: Tracker) -> dict[str, float]:
        """Return held-out figures of the averaged weights; called on the first worker alone."""

    @abstractmethod
    def stateful(self) -> dict[str, Stateful]:
        """Return what a checkpoint holds."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the averaged weights in diffusers layout; called on the first worker at the end."""


def run(stage: Stage, tracker: Tracker, output: Path) -> None:
    """Train ``stage`` to its last step, from its latest checkpoint if there is one.

    The first worker writes ``curves/NAME.csv`` and a checkpoint now and then; every worker takes part in each
    report, which Ray Train makes a barrier.
    """
    first = ray.train.get_context().get_world_rank() == 0
    start, history = _restore(stage)
    began = time.monotonic()
    if start == 0 and first:
        _record(stage, 0, {}, history, tracker, output, began, start)
    for step in range(start, stage.steps):
        losses = stage.train_step(step)
        done = step + 1
        if first and (done % stage.eval_every == 0 or done == stage.steps):
            _record(stage, done, losses, history, tracker, output, began, start)
        if done % stage.checkpoint_every == 0 or done == stage.steps:
            _report(stage, done, history, first)
    if first:
        stage.export(output / stage.name)


def _record(
    stage: Stage,
    step: int,
    losses: dict[str, float],
    history: list[dict[str, float]],
    tracker: Tracker,
    output: Path,
    began: float,
    start: int,
) -> None:
    images = step * stage.images_per_step
    speed = (step - start) * stage.images_per_step / max(time.monotonic() - began, 1e-9)
    figures = {**losses, **stage.evaluate(step, tracker), "images_per_second": speed}
    history.append({"step": float(step), "images": float(images), **figures})
    tracker.metrics(stage.name, figures, step)
    write_curve(output / "curves" / f"{stage.name}.csv", history)
    words = " ".join(f"{key} {value:.4g}" for key, value in figures.items())
    print(f"{stage.name} step {step}/{stage.steps} images {images} {words}", flush=True)


def write_curve(path: Path, history: list[dict[str, float]]) -> None:
    """Write one line per evaluation; a column that an evaluation lacks is empty there."""
    columns = list(dict.fromkeys(column for row in history for column in row))
    lines = [",".join(columns)]
    lines += [",".join(f"{row[column]:.6g}" if column in row else "" for column in columns) for row in history]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _restore(stage: Stage) -> tuple[int, list[dict[str, float]]]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, []
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
    for key, part in stage.stateful().items():
        part.load_state_dict(saved["parts"][key])
    print(f"{stage.name} continues at step {saved['step']}", flush=True)
    return int(saved["step"]), saved["history"]


def _report(stage: Stage, step: int, history: list[dict[str, float]], first: bool) -> None:
    metrics = {"step": step}
    if not first:
        ray.train.report(metrics)
        return
    parts = {key: part.state_dict() for key, part in stage.stateful().items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"step": step, "history": history, "parts": parts}, Path(folder) / _STATE)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def prepare_worker(compute: Compute) -> torch.device:
    """Set this process up as the configuration says and return the device it works on."""
    if not compute.use_gpu:
        torch.set_num_threads(compute.threads_per_worker)
    return get_device()


def autocast(compute: Compute, device: torch.device) -> torch.autocast:
    """Return the mixed-precision context of the forward passes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute.precision == "bfloat16")


def generator(device: torch.device, *key: object) -> torch.Generator:
    """Return a generator seeded by ``key`` (seed, stage, step, rank): what a step draws never depends on a restart."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))

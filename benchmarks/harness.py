"""How a benchmark is timed: arms take turns, a figure is the median of several rounds, and what must not share threads,
memory or caches runs in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]


class Skipped(Exception):
    """This benchmark cannot run here; the message says why."""


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Args:
        quick: the smallest sizes at which everything still runs; the figures mean nothing.
        rounds: how often the arms take turns; None is each benchmark's own choice.
        images: images of ``resample``, shared out to one process per core.
        reference_images: images of its slow arm, one after the other.
        tasks: of ``resample``; none is all.
        only: some of the ``faults``; none is all.
        at_once: rounds of ``faults`` that are played side by side, each on a cluster of its own.
    """

    quick: bool = False
    rounds: int | None = None
    images: int = 8
    reference_images: int = 2
    tasks: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    at_once: int = 1

    def rounds_or(self, default: int) -> int:
        return self.rounds or (1 if self.quick else default)

    @property
    def threads(self) -> int:
        """Threads of an arm that may use the whole machine."""
        return 1 if self.quick else cores()

    def apart(self, function: Callable[..., Any], threads: int, **arguments: Any) -> Any:
        """Return ``function(**arguments)`` of a process of its own; of this one if ``quick``, to save its start."""
        return function(**arguments) if self.quick else in_process(function, threads, **arguments)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clock() -> float:
    """Return seconds; kernels queued on a GPU are waited for."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def say(message: str) -> None:
    """Print a line of progress at once."""
    print(f"  {time.strftime('%H:%M:%S')} {message}", flush=True)


def take_turns(arms: Mapping[Any, Callable[[], None]], rounds: int) -> dict[Any, list[float]]:
    """Run the arms A B C, A B C, ... and return the seconds of each, so that a drift of the machine meets all alike."""
    seconds: dict[Any, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = clock()
            arm()
            seconds[name].append(clock() - start)
    return seconds


def in_process(function: Callable[..., Any], threads: int, **arguments: Any) -> Any:
    """Return ``function(**arguments)``, computed by a fresh process with so many threads.

    Arguments and answer travel as JSON. What the process prints is seen.

    Raises:
        RuntimeError: the process failed.
    """
    libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read when they are loaded
    environment = {**os.environ, **dict.fromkeys(libraries, str(threads))}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        call = [function.__module__, function.__name__, str(threads), json.dumps(arguments), str(answer)]
        done = subprocess.run([sys.executable, "-m", "benchmarks.process", *call], cwd=ROOT, env=environment)
        if done.returncode:
            raise RuntimeError(f"{function.__module__}.{function.__name__} ended with exit code {done.returncode}")
        return json.loads(answer.read_text())


def peak_memory_mib() -> float:
    """Return the largest resident memory this process ever had, MiB."""
    try:
        # not ru_maxrss: on Linux a process inherits that of its parent
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)

"""The stage of a fault: a small evaluation, what it gives undisturbed, and what must hold after any disturbance."""

from __future__ import annotations

import dataclasses
import io
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.cluster import LocalCluster
from benchmarks.harness import ROOT
from ipsolve.requests.validation import build
from ipsolve.runs.cells import describe
from ipsolve.runs.config import Config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ipsolve.solvers import Solver
from ray_jobs import cli
from ray_jobs.evaluate import evaluate
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Worker
from ray_jobs.pipeline.stages.workload import Workload

Numbers = dict[tuple[str, str, int, str], float]
TOLERANCE = 1e-3  # dB; a repetition may cut batches differently, and float32 sums depend on that a little
NUM_IMAGES = 10


@dataclasses.dataclass
class Scene:
    """Where one fault is played.

    Args:
        folder: all that it writes is in here.
        rng: draws the moment of the fault.
        cluster: the nodes that the actors run on.
        ready: what a stage keeps between scenes: a tracking server, and a store that is not made anew each time.
    """

    folder: Path
    rng: random.Random
    cluster: LocalCluster
    ready: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    said: str = ""  # all that drivers have printed

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return a configuration of a few seconds."""
        return {
            "name": "run",
            "data": {"source": "portraits:test", "limit": NUM_IMAGES},
            "prior": {"prior": "mixture", "image_shape": [3, 16, 16]},
            "tasks": {"sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.05}},
            "solvers": {"pinv": {"solver": "pseudo_inverse"}},
            "metrics": ["psnr", "ssim"],
            "compute": self.compute(),
            "output": str(self.folder),
            "tracking": {"uri": self.ready.get("store")},
            **changes,
        }

    def compute(self, num_actors: int = 1, batch_size: int = 2) -> dict[str, int]:
        """Return the section ``compute``."""
        return {"batch_size": batch_size, "num_actors": num_actors, "cpus_per_actor": 1}

    def experiment(self, solver: Solver | None = None, **changes: Any) -> Experiment:
        """Return the experiment, with a solver that is not registered beside ``pinv`` under the name ``faulty``."""
        checked = Experiment.of(build(Config, self.config(**changes), "config"))
        return dataclasses.replace(checked, solvers={**checked.solvers, **({"faulty": solver} if solver else {})})

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder / "run")

    def evaluate(self, trial: Experiment, wanted: int = cli.COMPLETE) -> None:
        """Run a driver in this process; AssertionError unless its exit code is the wanted one."""
        stream = io.StringIO()
        with redirect_stdout(stream), redirect_stderr(stream):
            code = evaluate(trial)
        self.said += stream.getvalue()
        require(code == wanted, f"exit code {code}, must be {wanted}: {stream.getvalue()[-500:]}")

    def command(self, solver: Solver) -> list[str]:
        """Return the command of a driver in a process of its own; the solver has to be one that it knows."""
        file = self.folder / "config.yaml"
        solvers = {"pinv": {"solver": "pseudo_inverse"}, "faulty": describe(solver, "solver")}
        file.write_text(yaml.safe_dump(self.config(solvers=solvers)))
        return [sys.executable, "-m", "benchmarks.faults.driver", str(file)]

    def driver(self, solver: Solver) -> subprocess.Popen[bytes]:
        """Start a driver in a process of its own."""
        with (self.folder / "driver.log").open("wb") as log:
            return subprocess.Popen(self.command(solver), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def calls(self) -> Path:
        """Return the folder in which ``Slow`` leaves a file for each image that it was called for."""
        folder = self.folder / "calls"
        folder.mkdir(exist_ok=True)
        return folder

    def meanwhile(self, disturb: Callable[[], None]) -> threading.Thread:
        """Do something while a driver works."""
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        return thread

    def undisturbed(self, trial: Experiment) -> Numbers:
        """Return what the experiment gives where nothing happens to it."""
        return numbers(self.alone(trial))

    def alone(self, trial: Experiment) -> RunFolder:
        """Do an experiment in this process without Ray; return its folder."""
        alone = dataclasses.replace(
            trial, config=dataclasses.replace(trial.config, output=tempfile.mkdtemp(dir=self.folder))
        )
        worker = Worker(Workload.of(alone))
        index = RunIndex(RunFolder(alone.config.run_location), alone.all_cells)
        for cell, indices in Plan.of(alone, index).dispatch().batches():
            worker.process(load(alone.source, cell, indices, alone.image_size))
        return RunFolder(alone.config.run_location)


def numbers(run: RunFolder) -> Numbers:
    """Return psnr by (task, solver, seed, image), from the files as they are; a key that is there twice is an error."""
    import pandas as pd

    if not run.files("results"):
        return {}
    table = pd.read_parquet(run.path("results")).astype({"task": str, "solver": str})
    keys = list(table[["task", "solver", "seed", "image_id"]].itertuples(index=False, name=None))
    require(len(set(keys)) == len(keys), "an image is in the results twice")
    return dict(zip(keys, table["psnr"], strict=True))


def check(scene: Scene, trial: Experiment, expected: Numbers, failing: Iterable[tuple[str, str]] = ()) -> None:
    """Raise AssertionError unless the run is as if nothing had happened.

    Args:
        expected: what the undisturbed run gives; failing images may be in it or not.
        failing: the (image id, stage) that must have become failures of the solver ``faulty``, or, of stage ``read``,
            of every solver.
    """
    found, rows = numbers(scene.run), scene.run.failures().to_pylist()
    failed = {(row["task"], row["solver"], row["seed"], row["image_id"]): row["stage"] for row in rows}
    require(len(failed) == len(rows), "an image is in the failures twice")
    require(not found.keys() & failed.keys(), "an image has a result and a failure")
    wanted = {(cell.task, cell.solver, cell.seed, name) for cell in trial.cells for name in trial.image_ids}
    require(found.keys() | failed.keys() == wanted, "an image has neither a result nor a failure, or was not asked for")
    stages = dict(failing)
    right = {
        key: stages[key[3]] for key in wanted if key[3] in stages and (key[1] == "faulty" or stages[key[3]] == "read")
    }
    require(failed == right, f"failures are {failed}, must be {right}")
    different = [key for key, value in found.items() if abs(value - expected[key]) > TOLERANCE]
    require(not different, f"other numbers than undisturbed: {different}")
    files = [path for path in Path(scene.run.root).rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    require(not files, f"temporary files are left: {files}")
    wait_until(lambda: not scene.cluster.at_work(), 60, "actors or readers outlive their driver")


def require_note(scene: Scene, words: str) -> None:
    """Raise AssertionError unless one of the notes in ``status.json`` says ``words``."""
    notes = scene.run.read_json("status.json").get("notes", [])
    require(any(words in note for note in notes), f"nobody said {words!r}: {notes}")


def require(condition: bool, words: str) -> None:
    """Raise AssertionError with ``words`` unless a condition holds; not ``assert``, which -O takes away."""
    if not condition:
        raise AssertionError(words)


def wait_until(condition: Callable[[], object], seconds: float, words: str) -> None:
    """Wait for a condition; AssertionError with ``words`` if it takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, words)
        time.sleep(0.02)


def kill(process: psutil.Process) -> None:
    """End a process as the kernel does when memory runs out."""
    process.kill()
    process.wait(30)

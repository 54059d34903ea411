"""What is no fault of a trial, on a real local Ray: dead processes, broken devices, a prior that cannot be read."""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from optuna.trial import TrialState

from ipsolve.priors import PriorSpec, PriorSummary, load_prior, prior_spec
from ipsolve.priors.base import Prior
from ipsolve.priors.networks.unet import Precision
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from tests.tuning.small_sweeps import PRIOR, SIZE, sweep
from tuning.ledger import Ledger
from tuning.request import Sweep
from tuning.sweep import run_sweep

pytestmark = [pytest.mark.xdist_group("ray, too"), pytest.mark.usefixtures("local_ray")]


@dataclass(frozen=True)
class FaultyPrior(PriorSpec):
    """The prior, whose process meets a fault ``times`` times; a file, named by the process, for each."""

    name: ClassVar[str] = "faulty"
    folder: str
    fault: str
    times: int

    def summary(self) -> PriorSummary:
        return PriorSummary((3, SIZE, SIZE), latent=False)

    def fingerprint(self) -> str:
        return prior_spec(PRIOR).fingerprint()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Prior:
        Path(self.folder, f"load-{os.getpid()}").touch()
        if self.fault == "disk":
            self.meet()
        prior: Any = load_prior(PRIOR, device, precision)
        denoise = prior.denoise

        def faulty(*arguments: Any, **keywords: Any) -> Any:
            self.meet()
            return denoise(*arguments, **keywords)

        object.__setattr__(prior, "denoise", faulty)
        return prior  # type: ignore[no-any-return]

    def meet(self) -> None:
        met = len(list(Path(self.folder).glob("fault-*")))
        if met >= self.times:
            return
        Path(self.folder, f"fault-{met}-{os.getpid()}").touch()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "device":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        raise OSError(28, "No space left on device")


def faulty_sweep(folder: Path, fault: str, times: int) -> Sweep:
    """Return a sweep of three trials, one at a time, whose processes meet a fault."""
    trial = sweep(
        folder,
        solver={"solver": "ddnm"},
        space={"num_steps": {"int": [2, 9]}},
        search={"num_trials": 3, "rungs": [2, 4], "algorithm": "random", "scheduler": "none"},
        compute={"concurrent_trials": 1, "batch_size": 4},
        tracking={"uri": "http://127.0.0.1:9"},
    )
    loads = folder / "loads"
    loads.mkdir(exist_ok=True)
    prior = FaultyPrior(str(loads), fault, times)
    return dataclasses.replace(trial, experiment=dataclasses.replace(trial.experiment, prior=prior))


def table_of(trial: Sweep) -> pd.DataFrame:
    return pd.read_parquet(RunFolder(trial.config.run_location).path("trials.parquet"))


def test_a_broken_device_costs_a_process_and_no_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = faulty_sweep(tmp_path, "device", times=1)
    assert run_sweep(trial) == cli.COMPLETE
    assert set(table_of(trial)["state"]) == {"complete"}
    loads = {path.name for path in (tmp_path / "loads").glob("load-*")}
    (fault,) = (tmp_path / "loads").glob("fault-*")
    assert len(loads) == 2  # the process of the broken device did one trial no more, another did all
    assert f"load-{fault.name.split('-')[-1]}" in loads
    died = "trial 0: its process died: BrokenDeviceError: RuntimeError: CUDA error: an illegal memory access"
    assert capsys.readouterr().out.count(died) == 1


def test_a_trial_whose_process_dies_every_time_is_failed_and_the_others_go_on(tmp_path: Path) -> None:
    trial = faulty_sweep(tmp_path, "kill", times=3)
    assert run_sweep(trial) == cli.COMPLETE
    table = table_of(trial)
    assert table["state"].tolist() == ["diverged", "complete", "complete"]
    assert table["error"][0].startswith("its process died 3 times: ")
    assert len(list((tmp_path / "loads").glob("fault-*"))) == 3


def test_a_disk_that_fails_breaks_the_sweep_off_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = faulty_sweep(tmp_path, "disk", times=10**9)
    run = RunFolder(trial.config.run_location)
    assert run_sweep(trial) == cli.FAILED
    reason = "trial 0: OSError: [Errno 28] No space left on device"
    assert capsys.readouterr().err == (
        f"the sweep broke off: {reason}\nwhat was solved is kept; the same command goes on from here\n"
    )
    assert run.read_json("status.json")["state"] == "broken off"
    assert {each.state for each in Ledger(trial, run).trials()} == {TrialState.RUNNING}  # none is finished
    again = faulty_sweep(tmp_path, "disk", times=0)
    assert run_sweep(again) == cli.COMPLETE
    assert table_of(again)["state"].tolist() == ["complete"] * 3


def test_a_sweep_whose_trials_all_diverge_has_its_tables_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "dmps", "num_steps": 4},
        space={"guidance_scale": {"choice": [1e29, 1e30]}},
        search={"num_trials": 3, "rungs": [2, 4]},
        tracking={"uri": "http://127.0.0.1:9"},
    )
    assert run_sweep(trial) == cli.FAILED
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith(
        "all 3 trials are done, and none has all images; trial 0: denoise, image "
    )
    assert "goes on from here" not in said.out + said.err
    assert set(table_of(trial)["state"]) == {"diverged"}
    run = RunFolder(trial.config.run_location)
    assert run.exists("trials.csv")
    assert run.exists("report.html")
    assert not run.exists("best.yaml")
    status = run.read_json("status.json")
    assert (status["state"], status["exit_code"]) == ("failed", cli.FAILED)

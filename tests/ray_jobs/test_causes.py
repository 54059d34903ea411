"""A run that breaks off says what happened, not what was printed last around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import ray
import torch

from ipsolve.datasets.base import Image, Source
from ipsolve.priors import PriorSpec, PriorSummary, prior_spec
from ipsolve.priors.base import Prior
from ipsolve.priors.networks.unet import Precision
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.evaluate import evaluate
from ray_jobs.pipeline.causes import StageError, as_stage_error, cause_of
from tests.ray_jobs.small_runs import SIZE, experiment

pytestmark = pytest.mark.xdist_group("ray")

SAID = "the weights are torn\nat byte 7\n\nFor help see\n  https://example.org"
IN_A_LINE = "ArithmeticError: the weights are torn at byte 7 For help see https://example.org"


@dataclass(frozen=True)
class TornPrior(PriorSpec):
    """Can be described, and not loaded."""

    name: ClassVar[str] = "torn"

    def summary(self) -> PriorSummary:
        return PriorSummary((3, SIZE, SIZE), latent=False)

    def fingerprint(self) -> str:
        return prior_spec({"prior": "mixture", "image_shape": [3, SIZE, SIZE]}).fingerprint()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> Prior:
        raise ArithmeticError(SAID)


class TornSource(Source):
    """Names images, and cannot read: not one of them, but at all."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return [self.names[index] for index in indices]

    def load(self, index: int, size: int) -> Image:
        raise ArithmeticError(SAID)

    def describe(self) -> dict[str, str | int]:
        return {"kind": "torn", "n": len(self), "digest": "", "source": "torn"}


@pytest.mark.parametrize("torn", ["prior", "source"])
def test_a_run_that_breaks_off_in_another_process_says_why(
    torn: str, local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = experiment(tmp_path, solvers={"pinv": {"solver": "pseudo_inverse"}})
    part = {"prior": TornPrior(), "source": TornSource(trial.image_ids)}[torn]
    trial = dataclasses.replace(trial, **{torn: part})
    assert evaluate(trial) == cli.FAILED
    status = RunFolder(trial.config.run_location).read_json("status.json")
    assert status["message"] == IN_A_LINE
    assert "ArithmeticError" in status["details"]
    assert "in load" in status["details"]  # whoever looks for the place of it finds it
    said = f"the run broke off: {IN_A_LINE}\nwhat was solved is kept; the same command goes on from here\n"
    assert said in capsys.readouterr().err


def test_a_cause_is_one_line_that_begins_with_what_happened() -> None:
    assert cause_of(ArithmeticError(SAID)) == IN_A_LINE
    assert cause_of(RuntimeError("first\nsecond")) == "first second"
    assert cause_of(RuntimeError()).startswith("RuntimeError:")
    killed = ray.exceptions.OutOfMemoryError("the node ran low on memory\nconsider a larger one")
    assert cause_of(killed) == "OutOfMemoryError: the node ran low on memory consider a larger one"


def test_what_a_stage_raises_keeps_its_origin() -> None:
    @as_stage_error()
    def stage() -> None:
        raise ArithmeticError(SAID)

    with pytest.raises(StageError) as raised:
        stage()
    assert str(raised.value) == IN_A_LINE
    assert isinstance(raised.value.__cause__, ArithmeticError)


def test_secrets_of_the_environment_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-printed")
    assert "not-to-be-printed" not in cause_of(ValueError("signed with not-to-be-printed"))

"""What the training job refuses, each in one line, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsolve.requests.errors import RequestError
from ray_jobs.train_prior import main
from ray_jobs.training.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs" / "priors"


@pytest.mark.parametrize("name", ["portraits64.yaml", "portraits128.yaml", "portraits64_consistency.yaml"])
def test_shipped_configurations_are_valid(name: str) -> None:
    config = load_config(str(CONFIGS / name))
    assert config.unet.steps > 0
    assert ("distillation" in config.identity()) != ("unet" in config.identity())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("unet.chanels=[1]", r"unet\.chanels: unknown key \(did you mean 'channels'\?\)"),
        ("data.size=30", r"data\.size: must be a multiple of 4|data\.size: .*multiple"),
        ("nonsense=1", "nonsense: unknown key"),
        ("unet.attention=[true]", r"unet\.attention: must say"),
        ("unet.norm_groups=7", r"unet\.norm_groups: 7 must divide"),
        ("data.train=portraits:trian", r"no split 'trian' \(did you mean 'train'\?\)"),
        ("autoencoder.init_from=/no/such", r"autoencoder\.init_from"),
        ("seed", "must look like key=value"),
        ("seed=-1", r"seed: must be greater than or equal to 0"),
        ("data.val=nope:x", r"nope"),
        ("output=s3://bucket/x", r"output: must be a local folder"),
        ("output=/proc/self/x", r"/proc/self/x"),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(
    override: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(CONFIGS / "portraits64.yaml"), f"output={tmp_path}", override]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    with pytest.raises(RequestError, match=message):
        raise RequestError(errors.strip())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("unet.steps=3", "unet: is the teacher's where there is a distillation; leave it out"),
        ("distillation.intervals=[80, 10]", r"distillation\.intervals: must not fall, 80 at the start is above 10"),
        ("distillation.solver=rk4", r"distillation\.solver: .*heun"),
        ("distillation.teacher=builtin:nobody", r"no prior 'builtin:nobody'"),
        ("space=pixel", "space: is pixel, and builtin:portraits-64 is of the space latent"),
        ("data.size=128", r"distillation\.teacher: .*states of 8 x 16 x 16.*data\.size 128 are 32 x 32"),
    ],
)
def test_a_distillation_that_cannot_be_exits_with_2_and_one_line(
    override: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(CONFIGS / "portraits64_consistency.yaml"), f"output={tmp_path}", override]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(message, errors)
    assert not list(tmp_path.iterdir())


def test_a_missing_configuration_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/no/such.yaml"]) == 2
    assert "cannot read the configuration" in capsys.readouterr().err

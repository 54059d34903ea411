"""A wrong request to the posterior command: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ipsolve.posterior.config import load_posterior_config
from ipsolve.posterior.experiment import PosteriorExperiment
from ipsolve.posterior.problems import PROBLEMS
from ipsolve.solvers.steps.particles import ParticleSolver
from ray_jobs import cli, posterior
from ray_jobs.pipeline.listing import list_registered
from tests.ray_jobs.small_posteriors import mapping

CONFIGS = Path(__file__).parents[2] / "configs" / "posterior"
REQUESTS = {
    "unknown key": ("sampels=10", "sampels: unknown key (did you mean 'samples'?)"),
    "unknown generator": ("problems.d4_m1.generator=mcgdif", "problems.d4_m1.generator: unknown problem generator"),
    "unknown field": (
        "problems.d4_m1.dimensions=3",
        "problems.d4_m1.dimensions: unknown key (did you mean 'dimension'",
    ),
    "range": ("samples=1", "samples: must be greater than or equal to 2 (got 1)"),
    "unknown solver": (
        "solvers.ddnm.solver=ddnmm",
        "solvers.ddnm.solver: unknown solver 'ddnmm' (did you mean 'ddnm'?)",
    ),
    "keep": (
        "solvers.ddnm.keep=all",
        "solvers.ddnm.keep: all is for solvers that return several samples, ddnm returns",
    ),
    "keep what": ("solvers.smc_4.keep=most", "solvers.smc_4.keep: must be 'one' or 'all' (got 'most')"),
    "no such set": ("solvers.ddnm.problems=[d4_m3]", "solvers.ddnm.problems: no problems 'd4_m3' (did you mean 'd4_m"),
    "latent only": (
        "solvers.ddnm={solver: psld}",
        "solvers.ddnm on problems.d4_m1: solver psld needs a latent",
    ),
    "the floor's name": ("solvers.exact={solver: ddnm}", "solvers.exact: this name is taken"),
    "baseline": ("baseline=ddnn", "baseline: no solver 'ddnn' (did you mean 'ddnm'?)"),
    "gpu": ("compute.gpus_per_actor=1", "compute.gpus_per_actor: must be less than or equal to 0"),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(mapping(tmp_path / "runs")))
    return path


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_gets_one_line_and_exit_code_2(
    config: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    word, message = REQUESTS[name]
    assert posterior.main([str(config), word, "--dry-run"]) == cli.WRONG_REQUEST
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (config.parent / "runs").exists()


def test_the_plan_is_printed_and_nothing_is_written(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert posterior.main([str(config), "--dry-run", "problems.d4_m1.num_problems=1"]) == cli.COMPLETE
    printed = capsys.readouterr().out
    for words in ("19 of 19 problems missing", "d4_m2 / cloud / seed 0", "20 of each, 30 slices"):
        assert words in printed
    assert not (config.parent / "runs").exists()


def test_every_generator_is_listed() -> None:
    assert {line.split()[0] for line in list_registered().splitlines() if line.strip()} >= set(PROBLEMS)


def test_the_shipped_experiments_are_valid_and_measure_the_same_solvers() -> None:
    full, small = (
        PosteriorExperiment.of(load_posterior_config(CONFIGS / f"{name}.yaml")) for name in ("mcgdiff", "mcgdiff-small")
    )
    kinds = [{entry.solver.name for entry in trial.entries.values()} for trial in (full, small)]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) == 22
    assert len(full.all_cells) == 9 * (22 + 1)
    assert full.config.samples == 2000
    for entry in full.entries.values():
        if isinstance(entry.solver, ParticleSolver):  # as in the paper: 1000 particles, twice
            assert entry.num_runs(2000) == 2

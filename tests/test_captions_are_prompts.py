"""Words that images come with are told to the prior, each image its own: from files to rows, runs and sweeps alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ipsolve.evaluation.batch import Batch, Outcome
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.experiment import Experiment
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.workload import Workload
from tests.datasets.test_parquet import png
from tests.priors.stable_diffusion_folders import stable_diffusion
from tests.tuning.small_sweeps import sweep
from tuning.trial import Bench, Place

SOLVER = {"solver": "latent_dps", "num_steps": 2}
TASK = {"operator": "denoising", "noise_std": 0.1}
WORDS = {"0.png": "a face", "1.png": "noisy"}  # the third has none
AGAINST = {"1.png": "dark", "2.png": "a face"}  # the first has none


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("captions")
    stable_diffusion("1", place / "sd")
    (place / "images").mkdir()
    for i in range(3):
        (place / "images" / f"{i}.png").write_bytes(png(i))
    for name, words in WORDS.items():
        (place / "images" / name).with_suffix(".txt").write_text(words)
    for name, words in AGAINST.items():
        (place / "images" / name).with_suffix(".negative.txt").write_text(words)
    return place


def sd(folder: Path, **asked: Any) -> dict[str, Any]:
    return {"prior": "stable_diffusion", "path": str(folder / "sd"), "guidance_scale": 3, **asked}


def both(folder: Path) -> dict[str, str]:
    return {"source": str(folder / "images"), "captions": "txt", "negative_captions": "txt"}


def experiment(folder: Path, captions: str | None, prompt: str = "", **changes: Any) -> Experiment:
    given = {
        "name": "words",
        "data": {"source": str(folder / "images")} | ({} if captions is None else {"captions": captions}),
        "prior": sd(folder, prompt=prompt),
        "tasks": {"noisy": TASK},
        "solvers": {"own": SOLVER},
        "metrics": ["psnr"],
        "output": str(folder / "runs"),
    }
    return Experiment.of(build(Config, given | changes, "config"))


def solve(asked: Experiment, indices: list[int]) -> Outcome:
    [cell] = asked.cells
    batch = Batch.of_row(load(asked.source, cell, indices, asked.image_size).to_row())
    return Workload.of(asked).start("cpu").evaluate(batch)


def psnr(outcome: Outcome) -> dict[str, float]:
    assert not outcome.failures
    return dict(zip(outcome.rows["image_id"].to_pylist(), outcome.rows["psnr"].to_pylist(), strict=True))


@pytest.mark.parametrize("samples", [1, 2])
def test_an_image_has_the_numbers_that_its_caption_as_prompt_of_all_gives(folder: Path, samples: int) -> None:
    told = solve(experiment(folder, "txt", "in the dark", samples=samples), [0, 1, 2]).rows.to_pandas()
    assert len(told) == 3 * samples
    for name, rows in told.groupby("image_id"):
        prompt = WORDS.get(str(name), "in the dark")
        alone = solve(experiment(folder, None, prompt, samples=samples), [int(str(name)[0])]).rows.to_pandas()
        assert rows["psnr"].tolist() == pytest.approx(alone["psnr"].tolist(), abs=1e-4)
    plain = psnr(solve(experiment(folder, None, "in the dark"), [0]))
    assert abs(told["psnr"][0] - plain["0.png"]) > 1e-2


def test_an_image_has_the_numbers_that_its_negative_caption_as_negative_prompt_of_all_gives(folder: Path) -> None:
    own = {"prompt": "in the dark", "negative_prompt": "in the light"}
    told = psnr(solve(experiment(folder, None, data=both(folder), prior=sd(folder, **own)), [0, 1, 2]))
    assert len(told) == 3
    for name, value in told.items():
        asked = sd(
            folder,
            prompt=WORDS.get(name, own["prompt"]),
            negative_prompt=AGAINST.get(name, own["negative_prompt"]),
        )
        alone = psnr(solve(experiment(folder, None, prior=asked), [int(name[0])]))
        assert value == pytest.approx(alone[name], abs=1e-4)
    plain = psnr(solve(experiment(folder, "txt", prior=sd(folder, **own)), [0, 1]))
    assert told["0.png"] == pytest.approx(plain["0.png"], abs=1e-4)
    assert abs(told["1.png"] - plain["1.png"]) > 2e-3


@pytest.mark.parametrize("negative", [False, True])
def test_a_sweep_tells_them_too(folder: Path, tmp_path: Path, negative: bool) -> None:
    base = experiment(folder, "txt", **({"data": both(folder)} if negative else {}))
    trial = sweep(
        tmp_path,
        data=base.config.data,
        prior=base.config.prior,
        tasks={"noisy": TASK},
        solver=SOLVER,
        space={"guidance_scale": {"float": [0.1, 1.0]}},
        search={"num_trials": 1, "rungs": [3]},
        evaluate={"data": {"source": "portraits:test"}},
    )
    problem = trial.problem()
    assert dict(problem.captions) == WORDS
    assert dict(problem.negative_captions) == (AGAINST if negative else {})
    bench = Bench(problem, Place(trial.config.run_location, "cpu", 1))
    assert bench.measure(trial.reference, 3).error is None
    [cell] = problem.trial(trial.reference).cells
    own: pd.DataFrame = bench.scores.rows(cell)
    whole = dataclasses.replace(base, solvers={"own": problem.trial(trial.reference).solvers["trial"]})
    expected = psnr(solve(whole, [0, 1, 2]))
    assert {name: row.psnr for name, row in own.iterrows()} == pytest.approx(expected, abs=1e-4)


def test_a_caption_that_would_be_cut_off_is_the_fault_of_its_image(folder: Path) -> None:
    path = folder / "images" / "1.txt"
    try:
        path.write_text("face " * 30)
        outcome = solve(experiment(folder, "txt"), [0, 1, 2])
    finally:
        path.write_text(WORDS["1.png"])
    [failure] = outcome.failures
    assert failure.image_id == "1.png"
    assert "is 32 tokens long, text_encoder takes 16" in failure.error
    assert outcome.rows["image_id"].to_pylist() == ["0.png", "2.png"]


def test_a_prior_without_text_refuses_captions(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"data.captions.*prior mixture cannot be told a text; allowed: null"):
        experiment(folder, "txt", prior={"prior": "mixture", "image_shape": [3, 16, 16]})


@pytest.mark.parametrize(
    ("prior", "line"),
    [
        (
            {"prior": "mixture", "image_shape": [3, 16, 16]},
            "prior mixture cannot be told a negative text; allowed: nul",
        ),
        ({"guidance_scale": 1}, "nothing is led away from where prior.guidance_scale is 1; allowed: null, or"),
    ],
)
def test_negative_captions_that_no_prior_would_hear_are_refused(folder: Path, prior: Any, line: str) -> None:
    data = {"source": str(folder / "images"), "negative_captions": "txt"}
    with pytest.raises(RequestError, match=f"data.negative_captions: {line}") as caught:
        experiment(folder, None, data=data, prior=prior if "prior" in prior else sd(folder, **prior))
    assert "\n" not in str(caught.value)


def test_a_negative_caption_that_would_be_cut_off_is_the_fault_of_its_image(folder: Path) -> None:
    path = folder / "images" / "1.negative.txt"
    try:
        path.write_text("face " * 30)
        outcome = solve(experiment(folder, None, data=both(folder)), [0, 1, 2])
    finally:
        path.write_text(AGAINST["1.png"])
    [failure] = outcome.failures
    assert failure.image_id == "1.png"
    assert "is 32 tokens long, text_encoder takes 16" in failure.error


def test_captions_are_in_the_digest_of_what_was_read(folder: Path) -> None:
    digests = []
    for changes in ({}, {"captions": "txt"}, {"captions": "txt", "negative_captions": "txt"}):
        asked = experiment(folder, None, data={"source": str(folder / "images"), **changes})
        batch = load(asked.source, asked.reference_cell, [0, 1, 2], asked.image_size)
        digests.append(Workload.of(asked).start("cpu").evaluate(batch).rows["digest"].to_pylist())
    plain, told, against = digests
    assert [a == b for a, b in zip(plain, told, strict=True)] == [False, False, True]  # the third has no caption
    assert [a == b for a, b in zip(told, against, strict=True)] == [True, False, False]

"""Every configuration that is shipped is a valid request, and those of papers are the papers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage
import sklearn

from ipsolve.datasets import ImageError
from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import load_config, read_mapping
from ipsolve.runs.experiment import Experiment
from ipsolve.solvers import parse_solver

CONFIGS = Path(__file__).parents[1] / "configs"
PAPERS = sorted(path.stem for path in (CONFIGS / "paper").glob("*.yaml"))
SAMPLES = {
    "scikit-image": Path(skimage.__file__).parent / "data",
    "scikit-learn": Path(sklearn.__file__).parent / "datasets" / "images",
}
STAND_IN = ["data={source: portraits:test, limit: 1}", "prior={prior: mixture, image_shape: [3, 256, 256]}"]


def paper(name: str, *overrides: str) -> Experiment:
    """Return a paper's experiment, with a prior and images of its size that are on this machine."""
    return Experiment.of(load_config(CONFIGS / "paper" / f"{name}.yaml", [*STAND_IN, "metrics=[psnr]", *overrides]))


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)  # paths in a configuration are relative to where the command runs


def test_the_demo_is_valid() -> None:
    assert len(Experiment.of(load_config(CONFIGS / "demo.yaml")).cells) == 25


@pytest.mark.parametrize("samples", SAMPLES)
def test_photographs_are_tiled_and_other_files_are_passed_over(samples: str) -> None:
    folder = SAMPLES[samples]
    trial = Experiment.of(load_config(CONFIGS / "photos.yaml", [f"data.source={folder}", "data.limit=null"]))
    files = {image_id.split("@")[0] for image_id in trial.image_ids}
    assert files == {path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".tif")}
    for image_id, image in zip(
        trial.image_ids, trial.source.load_batch(range(len(trial.image_ids)), trial.image_size), strict=True
    ):
        if isinstance(image, ImageError):  # less than 256 pixels, which downscale makes less than a tile
            unread = image_id.startswith("multipage_rgb.tif")  # a stack of planes is no photograph
            assert ("not a PNG" if unread else "hold no tile of 64 after downscale=4") in str(image)
            assert image_id.split("@")[0] in (
                *("chessboard_GRAY.png", "chessboard_RGB.png"),
                *("microaneurysms.png", "page.png", "text.png", "multipage.tif", "multipage_rgb.tif"),
            )
        else:
            assert image.shape == (64, 64, 3)


def test_photographs_have_to_be_named() -> None:
    with pytest.raises(RequestError, match=r"^data\.source: photos does not exist; allowed: .*a folder"):
        Experiment.of(load_config(CONFIGS / "photos.yaml"))


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_without_its_weights_is_one_line_that_says_how_to_get_them(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        Experiment.of(load_config(CONFIGS / "paper" / f"{name}.yaml", ["prior.path=no/such/prior"]))
    assert "\n" not in str(caught.value)
    assert "python -m ray_jobs.convert CHECKPOINT no/such/prior" in str(caught.value)


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_measures_what_its_table_publishes(name: str) -> None:
    trial = paper(name)
    assert trial.config.published is not None
    published = read_mapping(trial.config.published)["results"]
    assert set(trial.tasks) == set(published)
    assert all(set(row) <= set(trial.solvers) for row in published.values())
    assert all(set(figures) <= set(load_config(CONFIGS / "paper" / f"{name}.yaml").metrics)
               for row in published.values() for figures in row.values())  # fmt: skip
    assert all(task.noise.std == 0.01 for task in trial.tasks.values())
    assert all(solver.num_steps == 500 for solver in trial.solvers.values())  # type: ignore[attr-defined]
    assert trial.solvers["resample"] == parse_solver({"solver": "resample", "preset": "official"})
    assert trial.solvers["nullspace_resample"] == parse_solver({"solver": "nullspace_resample", "preset": "published"})

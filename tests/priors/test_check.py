"""A request is checked by what files say of themselves: who checks it may have neither a GPU nor memory for weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import ipsolve.priors
from ipsolve.priors import MixturePrior, load_prior, prior_spec
from ipsolve.priors.mixtures import fitted_mixture, gaussian_mixture
from ipsolve.priors.networks import weight_files
from ipsolve.requests.errors import RequestError
from tests.ray_jobs.small_runs import experiment

BUILTIN = Path(ipsolve.priors.__file__).parent / "builtin" / "portraits-64"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in prior, to be damaged."""
    shutil.copytree(BUILTIN, tmp_path / "prior")
    for path in (tmp_path / "prior").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "prior"


def refusing(name: str, real: Any) -> Any:
    """Return ``safe_open`` whose files do not give a tensor away."""

    class Closed:
        def __init__(self, *arguments: Any, **words: Any) -> None:
            self.file = real(*arguments, **words)

        def __enter__(self) -> Closed:
            self.opened = self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def keys(self) -> Any:
            return self.opened.keys()

        def get_slice(self, tensor: str) -> Any:
            return self.opened.get_slice(tensor)

        def get_tensor(self, tensor: str) -> Any:
            raise AssertionError(f"{name} was loaded: {tensor}")

    return Closed


def test_an_experiment_is_checked_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "safe_open", refusing("a network", weight_files.safe_open))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    prior = {"prior": "latent", "path": "builtin:portraits-64"}
    trial = experiment(tmp_path, prior=prior, metrics=["psnr", "ssim", "fd_prior"])
    with pytest.raises(AssertionError, match="a network was loaded"):
        trial.prior.load()


def change(folder: Path, component: str, how: str) -> None:
    file = folder / component / WEIGHTS
    weights = load_file(file)
    name = min(weights)
    if how == "another shape":
        weights[name] = weights[name].repeat(2, *[1] * (weights[name].ndim - 1))
    elif how == "lacking":
        del weights[name]
    else:
        weights["of_nothing"] = weights[name].clone()
    save_file(weights, file)


@pytest.mark.parametrize("component", ["unet", "vae"])
@pytest.mark.parametrize("how", ["another shape", "lacking", "unexpected"])
def test_what_would_not_load_is_refused_in_the_same_words(folder: Path, component: str, how: str) -> None:
    spec = prior_spec({"prior": "latent", "path": str(folder)})
    spec.check()
    change(folder, component, how)
    with pytest.raises(RequestError) as checked:
        spec.check()
    with pytest.raises(RequestError) as loaded:
        spec.load()
    assert str(checked.value) == str(loaded.value)


def test_a_schedule_that_is_not_known_is_found_by_the_check(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_schedule": "unheard of"}))
    with pytest.raises(RequestError, match="beta_schedule 'unheard of'"):
        prior_spec({"prior": "latent", "path": str(folder)}).check()


def test_a_fitted_mixture_that_lacks_a_tensor_is_found_by_the_check(tmp_path: Path) -> None:
    prior = load_prior({"prior": "mixture", "image_shape": [3, 4, 4]})
    assert isinstance(prior, MixturePrior)
    folder = tmp_path / "mixture"
    folder.mkdir()
    (folder / fitted_mixture.DESCRIPTION).write_text(json.dumps({"image_shape": [3, 4, 4]}))
    mixture: gaussian_mixture.GaussianMixture = prior.mixture
    save_file({"means": mixture.means.float()}, folder / fitted_mixture.WEIGHTS)
    with pytest.raises(RequestError, match="is not a fitted mixture: it has no log_weights"):
        prior_spec({"prior": "fitted_mixture", "path": str(folder)}).check()


def test_states_that_a_network_cannot_take_are_found_without_its_weights(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 15}))  # its two halvings give 8 and 4
    spec = prior_spec({"prior": "latent", "path": str(folder)})
    assert spec.summary().image_shape == (3, 60, 60)
    with pytest.raises(RequestError, match=r"prior.path: .*unet cannot take 8 x 15 x 15: [^\n]+"):
        spec.check()


@pytest.mark.parametrize(
    "prior", [{"prior": "latent", "path": "builtin:portraits-64"}, {"prior": "mixture", "image_shape": [3, 16, 16]}]
)
def test_more_steps_than_the_schedule_has_are_refused(tmp_path: Path, prior: dict[str, Any]) -> None:
    solvers = {"ddnm": {"solver": "ddnm", "num_steps": 1001}}
    with pytest.raises(RequestError, match=r"solvers.ddnm: num_steps=1001 is not possible .* allowed: 1 to 1000"):
        experiment(tmp_path, prior=prior, solvers=solvers, baseline=None, metrics=["psnr"])
    assert experiment(
        tmp_path, prior=prior, solvers={"ddnm": {"solver": "ddnm", "num_steps": 1000}}, metrics=["psnr"], baseline=None
    )

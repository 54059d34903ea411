"""Every solver for pixels runs on converted priors, whatever their schedule and time input are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import solve
from ipsolve.operators.tasks import parse_task
from ipsolve.priors import Prior, load_prior
from ipsolve.problem import pose
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import SOLVERS
from ray_jobs.convert import main
from tests.priors import edm_reference, test_score_sde

# of the other families one has the schedule of DDPM, one differs from EDM's in its steps alone
STATES = {
    "edm": (edm_reference.random_state(edm_reference.SMALL), "--precond edm"),
    "score_sde_vp": (test_score_sde.random_state(test_score_sde.DDPMPP), "--image_size 16 --sde vpsde"),
}


@pytest.fixture(scope="module", params=STATES)
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prior:
    folder, (state, flags) = tmp_path_factory.mktemp("prior"), STATES[request.param]
    torch.save(state, folder / "model.pt")
    assert main([str(folder / "model.pt"), str(folder / "prior"), "--flags", flags]) == 0
    return load_prior({"prior": "pixel", "path": str(folder / "prior")})


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


@pytest.mark.parametrize("name", [name for name in SOLVERS if "latent" not in SOLVERS[name].requires])
def test_a_few_steps(prior: Prior, name: str) -> None:
    x = images()
    task = parse_task({"operator": "random_inpainting", "drop_range": [0.5, 0.51], "noise_std": 0.05})
    posed = pose(task, x, prior, 0, ["a", "b"])
    solver = SOLVERS[name]()
    fields = {field.name for field in dataclasses.fields(solver)}
    few = {key: value for key, value in {"num_steps": 4, "num_particles": 2, "iterations": 2}.items() if key in fields}
    try:
        solved = solve(dataclasses.replace(solver, **few), posed.problem)
    except RequestError as error:  # not for this task or schedule: said in one line
        pytest.skip(str(error))
    assert solved.x.shape == x.shape
    assert solved.x.isfinite().all()

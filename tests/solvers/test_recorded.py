"""What every solver returned when the house was built (2026-11-29), on exact priors in float64.

A change of these numbers is a change of a method: it is made on purpose, said in the commit, and recorded again by
``python -m tests.solvers.test_recorded``. The problems are so short that rounding in another order moves no number by
more than 1e-11, which is below the tolerance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import SOLVERS

from .conftest import SHAPE, MixturePrior, ShuffledPrior, mixture, posed
from .test_every_solver import TASKS, one_sample, small

FILE = Path(__file__).parent / "recorded.npz"
CALLS = ("denoiser", "denoiser_backward", "decoder", "decoder_backward")
PRIORS: dict[str, Prior] = {"pixel": MixturePrior(mixture(), SHAPE), "latent": ShuffledPrior(mixture())}


def numbers(name: str, kind: str, task: dict[str, object]) -> dict[str, np.ndarray] | None:
    """Return every seventh number of each image, and the calls made; None for what is refused."""
    solver, prior = small(name), PRIORS[kind]
    try:
        solver.check(parse_task(task), prior.traits)
    except RequestError:
        return None
    metered = MeteredPrior(prior, 3)
    with torch.no_grad():
        x = one_sample(solver, posed(task, metered).problem)
    calls = np.array([metered.counts[each].tolist() for each in CALLS])
    key = f"{name}/{kind}/{task['operator']}"
    return {key: x.flatten(1)[:, ::7].numpy(), f"{key}/calls": calls}


@pytest.mark.parametrize("task", TASKS[:2], ids=lambda task: task["operator"])
@pytest.mark.parametrize("kind", list(PRIORS))
@pytest.mark.parametrize("name", list(SOLVERS))
def test_numbers_are_those_that_were_recorded(name: str, kind: str, task: dict[str, object]) -> None:
    found = numbers(name, kind, task)
    with np.load(FILE) as recorded:
        if found is None:
            assert f"{name}/{kind}/{task['operator']}" not in recorded
            return
        for key, values in found.items():
            np.testing.assert_allclose(values, recorded[key], rtol=0, atol=1e-10, err_msg=key)


if __name__ == "__main__":
    every = [numbers(name, kind, task) for name in SOLVERS for kind in PRIORS for task in TASKS[:2]]
    np.savez_compressed(FILE, **{key: values for found in every if found for key, values in found.items()})

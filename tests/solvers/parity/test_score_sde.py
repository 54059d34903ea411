"""Score-SDE for inpainting against yang-song/score_sde_pytorch, which starts with y in the measured part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.priors.sde_schedules import GeometricVe
from ipsolve.solvers.projection.score_sde import ScoreSDE

from .first import SEEN, Injected, Mixture, Recording, difference, mask, measured, problem

SIGMA_MAX = 20.0
CASES = {
    "default": ScoreSDE(num_steps=8, measurement_level="current"),
    "large": ScoreSDE(num_steps=8, measurement_level="current", snr=0.4),
}


class FromY(Injected):
    """The draws of official code, the first of which is made a start with y where A sees."""

    started = False

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn = super().normal(*shape, dtype=dtype)
        if not self.started:
            drawn[:, SEEN], self.started = measured(mask(), 0.0) / SIGMA_MAX, True
        return drawn


@pytest.mark.parametrize("case", CASES)
def test_score_sde_is_that_of_its_authors(case: str) -> None:
    posed = problem(mask(), Mixture(GeometricVe(0.05, SIGMA_MAX)), noise_std=0.0)
    posed = replace(posed, rng=FromY())
    assert difference(CASES[case], posed, Recording.of("score_sde").cases[case]) < 1e-5

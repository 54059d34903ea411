"""Samples of a prior in training: they start where the levels of its schedule do."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from ipsolve.priors import FlowMatching
from ipsolve.priors.networks.prediction import Velocity
from ipsolve.priors.networks.unet import Execution, UNetPrior
from ray_jobs.training.sampling import flow_states

VARIANCE = 0.25


class GaussianVelocity(nn.Module):
    """The velocity of the flow of N(0, 0.25)."""

    config: ClassVar = {"in_channels": 1, "out_channels": 1}

    def forward(self, x: Tensor, time: Tensor, return_dict: bool) -> tuple[Tensor]:
        t = (time / 1000).view(-1, 1, 1, 1)
        return ((t - (1 - t) * VARIANCE) / ((1 - t) ** 2 * VARIANCE + t**2) * x,)


@pytest.mark.parametrize("start", [1.0, 0.8])
def test_a_flow_ends_with_the_variance_of_its_prior_wherever_it_starts(start: float) -> None:
    prior = UNetPrior(GaussianVelocity(), FlowMatching(start=start), Velocity(), Execution(torch.device("cpu")))
    states = flow_states(prior, (1, 4, 4), count=500, steps=400, seed=0)
    # the flow of a Gaussian is linear; all that it starts without is the share of the image at its first level
    began = start / math.sqrt((1 - start) ** 2 * VARIANCE + start**2)
    noise = torch.randn((500, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(states, began * math.sqrt(VARIANCE) * noise, rtol=0, atol=0.01)

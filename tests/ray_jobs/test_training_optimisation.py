"""Optimisers, learning rate, averaging and sampling order of the training job, by the laws they keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ray_jobs.training.muon import MatrixMuon
from ray_jobs.training.optimisation import is_hidden_matrix, learning_rate_factor, moving_average
from ray_jobs.training.shards import batch_rows


def test_muon_on_a_convolution_is_muon_on_its_matrix() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3)
    matrix = conv.weight.detach().clone().flatten(1).requires_grad_()
    ours = MatrixMuon([conv.weight], lr=0.1, weight_decay=0.01)
    reference = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn_like(conv.weight)
        conv.weight.grad, matrix.grad = gradient, gradient.flatten(1)
        ours.step()
        reference.step()
    torch.testing.assert_close(conv.weight.flatten(1), matrix)


def test_muon_leaves_the_ends_to_adamw() -> None:
    weight = torch.zeros(4, 4, 3, 3)
    assert is_hidden_matrix("mid_block.resnets.0.conv1.weight", weight)
    assert not any(is_hidden_matrix(name, weight) for name in ("conv_in.weight", "time_embedding.linear_1.weight"))
    assert not is_hidden_matrix("mid_block.resnets.0.conv1.bias", torch.zeros(4))


def test_learning_rate_rises_holds_and_falls() -> None:
    factors = [learning_rate_factor(step, 1000, warmup=100, constant_share=0.2) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[100:200] == [1.0] * 100
    assert all(late < early for early, late in itertools.pairwise(factors[200:]))
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


def test_moving_average_converges_to_the_weights() -> None:
    model = nn.Linear(2, 2)
    average = moving_average(model, 0.9)
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for _ in range(200):
        average.update_parameters(model)
    torch.testing.assert_close(average.module.weight, model.weight)
    assert not average.module.weight.requires_grad


def test_every_epoch_uses_each_image_once() -> None:
    rows = np.concatenate([batch_rows(step, 6, 20, seed=3) for step in range(10)])
    for epoch in rows.reshape(3, 20):
        assert sorted(epoch) == list(range(20))
    assert not np.array_equal(rows[:20], rows[20:40])
    np.testing.assert_array_equal(batch_rows(7, 6, 20, seed=3), rows[42:48])


# ---- requests

"""What a solver returns: its shape, and what is drawn of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.problem import Solution
from ipsolve.randomness import ImageRng, image_rng

BATCH, SHAPE = 400, (2, 3)
WEIGHTS = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3], dtype=torch.float64)


def streams(batch: int = BATCH) -> ImageRng:
    return image_rng(0, [f"image{i}" for i in range(batch)], "draw")


def numbered(samples: int) -> Tensor:
    """Samples whose entries are their numbers, (BATCH, samples, *SHAPE)."""
    return torch.arange(samples).reshape(1, -1, 1, 1).expand(BATCH, samples, *SHAPE)


def times_taken(drawn: Tensor, samples: int) -> Tensor:
    """How often each sample was drawn, (BATCH, samples), from whole samples only."""
    assert drawn.shape[2:] == SHAPE
    numbers = drawn.flatten(2)
    assert (numbers == numbers[..., :1]).all()
    return torch.nn.functional.one_hot(numbers[..., 0], samples).sum(1)


def test_a_plain_tensor_is_one_sample_of_each_image() -> None:
    x = torch.rand(3, *SHAPE)
    solution = Solution.of(x, (3, *SHAPE))
    assert torch.equal(solution.x, x[:, None])
    assert solution.log_weights is None
    assert torch.equal(solution.draw(1, streams(3))[:, 0], x)
    several = Solution(torch.rand(3, 4, *SHAPE))
    assert Solution.of(several, (3, *SHAPE)) is several


@pytest.mark.parametrize(
    "answer",
    [
        torch.zeros(2, 2, 3),
        torch.zeros(3, 2, 4),
        torch.zeros(3, 1, 2, 3),
        torch.zeros(3),
        Solution(torch.zeros(3, 2, 3)),
        Solution(torch.zeros(3)),
        Solution(torch.zeros(2, 5, 2, 3)),
    ],
    ids=["batch", "side", "axis", "flat", "no samples", "nothing", "batch of a solution"],
)
def test_another_shape_than_that_of_the_images_is_refused(answer: Tensor | Solution) -> None:
    with pytest.raises(ValueError, match=r"solver returned \(.*\) for images of \(3, 2, 3\)"):
        Solution.of(answer, (3, *SHAPE))


@pytest.mark.parametrize("count", [1, 5, 8, 40])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_sample_is_taken_as_often_as_its_weight_says(count: int, shift: float) -> None:
    """Floor or ceil(count w) times, on average count w, whatever the weights are normalised to."""
    log_weights = (WEIGHTS.log() + shift).expand(BATCH, -1)
    taken = times_taken(Solution(numbered(5), log_weights).draw(count, streams()), 5).double()
    expected = count * WEIGHTS
    assert (taken.sum(1) == count).all()
    assert ((taken - expected).abs() < 1 - 1e-9).all()
    assert (taken[:, 2] == 0).all()
    assert ((taken.mean(0) - expected).abs() <= 4.5 * taken.std(0) / BATCH**0.5).all()


def test_samples_of_equal_weight_are_all_taken_in_turn() -> None:
    solution = Solution(numbered(4))
    assert torch.equal(solution.draw(4, streams()), solution.x)
    assert (times_taken(solution.draw(8, streams()), 4) == 2).all()
    assert (times_taken(solution.draw(2, streams()), 4).sum(1) == 2).all()
    assert times_taken(solution.draw(2, streams()), 4).max() == 1


def test_what_is_drawn_of_an_image_does_not_depend_on_its_batch() -> None:
    log_weights, rows = WEIGHTS.log().expand(BATCH, -1), torch.tensor([7, 3])
    together = Solution(numbered(5), log_weights).draw(3, streams())
    apart = Solution(numbered(5)[rows], log_weights[rows]).draw(3, streams().select(rows))
    assert torch.equal(apart, together[rows])

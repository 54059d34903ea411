"""Portraits by index: the stream order of the parts, and their painting order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipsolve.datasets.portraits.accessories import Glasses, Hat
from ipsolve.datasets.portraits.background import Background
from ipsolve.datasets.portraits.body import Body
from ipsolve.datasets.portraits.drawing import over
from ipsolve.datasets.portraits.draws import Draws
from ipsolve.datasets.portraits.ears import Earrings, Ears
from ipsolve.datasets.portraits.eyes import Eyes
from ipsolve.datasets.portraits.face import Face, FaceTraits
from ipsolve.datasets.portraits.finish import Finish
from ipsolve.datasets.portraits.frame import Frame
from ipsolve.datasets.portraits.hair import FringeTraits, Hair, HairTraits
from ipsolve.datasets.portraits.head import Head, HeadTraits
from ipsolve.datasets.portraits.mouth import Beard, Mouth, mouth_level

MIN_SIZE = 8
BATCH_SIZE = 32  # the working set of about 40 fields of this many 64 x 64 images stays near the CPU's cache


@torch.no_grad()
def render(indices: Sequence[int] | NDArray[np.int64], size: int = 64, seed: int = 0) -> Tensor:
    """Return portraits, (N, 3, size, size) float32 in [0, 1].

    Portrait i is a function of (seed, indices[i], size) alone. A larger size shows the same sitter in more
    detail; grain and pixel-wide edges follow the size.

    Args:
        indices: non-negative portrait numbers.
        size: height and width in pixels, at least 8.
        seed: another seed is another population.
    """
    if size < MIN_SIZE:
        raise ValueError(f"portraits are at least {MIN_SIZE} pixels wide, got {size}")
    index_array = np.asarray(indices, dtype=np.int64)
    if len(index_array) == 0:
        return torch.empty(0, 3, size, size)
    chunks = [index_array[start : start + BATCH_SIZE] for start in range(0, len(index_array), BATCH_SIZE)]
    return torch.cat([_render_chunk(chunk, size, seed) for chunk in chunks])


def _render_chunk(indices: NDArray[np.int64], size: int, seed: int) -> Tensor:
    frame = Frame.of_size(size)
    draws = Draws(seed, indices, size)

    # the order of these lines defines the data set (see draws.py)
    background = Background.draw(draws)
    head = Head(HeadTraits.draw(draws), frame)
    hair = Hair(HairTraits.draw(draws), head)
    body = Body.draw(draws)
    ears = Ears.draw(draws)
    face = Face(FaceTraits.draw(draws), head)
    beard = Beard.draw(draws)
    mouth = Mouth.draw(draws)
    eyes = Eyes.draw(draws)
    earrings = Earrings.draw(draws)
    fringe = FringeTraits.draw(draws)
    hat = Hat.draw(draws)
    glasses = Glasses.draw(draws)
    finish = Finish.draw(draws, size)

    image = background.paint(frame)
    image = hair.paint_back(image)
    image = body.paint(image, head)
    image = ears.paint(image, head)
    colour = beard.paint(face.paint(), face)
    colour = mouth.paint(colour, face, mouth_level(beard, face))
    colour = eyes.paint(colour, face)
    inside = head.cover(face.outline)
    image = over(image, colour.clamp(0, 1), inside)
    image = earrings.paint(image, head, ears)
    image = hair.paint_fringe(image, fringe, inside)
    image = hat.paint(image, face)
    image = glasses.paint(image, face)
    return finish.paint(image, frame)

"""MPGD on pixels against KellyYutongHe/mpgd_pytorch. Its forms with an auto-encoder are other ones: docs/parity.md."""

from __future__ import annotations

import pytest

from ipsolve.solvers.guidance.mpgd import MPGD

from .first import Recording, dense, difference, first_level, problem

CASES = {
    "default": MPGD(num_steps=10, guidance_scale=0.3, eta=0.5),
    "clipped": MPGD(num_steps=10, guidance_scale=1.0, eta=1.0, clip_denoised=True),
}


@pytest.mark.parametrize("case", CASES)
def test_mpgd_is_that_of_its_authors(case: str) -> None:
    posed = problem(dense(), start=first_level(10))
    assert difference(CASES[case], posed, Recording.of("mpgd").cases[case]) < 1e-5

"""ReSample, whole and as its code is, against soominkwon/resample."""

from __future__ import annotations

from ipsolve.priors import scaled_linear
from ipsolve.solvers.consistency.resample import ReSample

from .first import Mixture, Recording, dense, difference, problem

SCHEDULE = scaled_linear(0.0015, 0.0195)


def test_resample_is_that_of_its_authors() -> None:
    """40 steps with both kinds of hard consistency: in pixels, 20 steps before the end, and in latents, 10 before."""
    posed = problem(dense(), Mixture(SCHEDULE, latent=True), start=SCHEDULE.levels(40)[0])
    assert difference(ReSample(num_steps=40), posed, Recording.of("resample").cases["official"]) < 1e-5

"""Latent DPS against LituRout/PSLD without its gluing term: DPS's authors have no latent code."""

from __future__ import annotations

import pytest

from ipsolve.priors import scaled_linear
from ipsolve.solvers.guidance.latent_dps import LatentDPS

from .first import Mixture, Recording, dense, difference, problem

SCHEDULE = scaled_linear(0.0015, 0.0195)
CASES = {"ddim": LatentDPS(num_steps=10), "ddpm": LatentDPS(num_steps=10, eta=1.0, guidance_scale=1.0)}


@pytest.mark.parametrize("case", CASES)
def test_latent_dps_is_psld_without_its_gluing(case: str) -> None:
    posed = problem(dense(), Mixture(SCHEDULE, latent=True), start=SCHEDULE.levels(10)[0])
    assert difference(CASES[case], posed, Recording.of("latent_dps").cases[case]) < 1e-5

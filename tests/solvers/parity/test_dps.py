"""DPS against DPS2022/diffusion-posterior-sampling."""

from __future__ import annotations

import pytest

from ipsolve.solvers.guidance.dps import DPS

from .first import Recording, dense, difference, first_level, problem

CASES = {
    "ddpm": DPS(num_steps=6, timestep_spacing="linspace", zeta=0.3),
    "ddpm clipped": DPS(num_steps=6, timestep_spacing="linspace", zeta=1.0, clip_denoised=True),
    "ddpm learned variance": DPS(num_steps=6, timestep_spacing="linspace", zeta=0.5, variance="learned"),
    "poisson": DPS(num_steps=6, timestep_spacing="linspace", zeta=0.02, norm="poisson"),
    "ddim": DPS(num_steps=6, timestep_spacing="linspace", zeta=0.3, eta=0),
}


@pytest.mark.parametrize("case", CASES)
def test_dps_is_that_of_its_authors(case: str) -> None:
    assert (
        difference(CASES[case], problem(dense(), start=first_level(6, "linspace")), Recording.of("dps").cases[case])
        < 1e-5
    )

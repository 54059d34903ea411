"""Published solvers, one file each; importing a file registers it."""

from ipsolve.solvers import (  # noqa: F401
    daps,
    dcdp,
    ddnm,
    ddrm,
    dds,
    diffpir,
    dmps,
    dps,
    dsg,
    fps,
    ilvr,
    latent_dps,
    mcg,
    mcgdiff,
    mmps,
    mpgd,
    nullspace_resample,
    pigdm,
    pseudo_inverse,
    psld,
    red_diff,
    resample,
    score_ald,
    score_sde,
    sitcom,
    smcdiff,
    tds,
    tv,
)
from ipsolve.solvers.base import SOLVERS, Requirements, Solver, parse_solver

__all__ = ["SOLVERS", "Requirements", "Solver", "parse_solver"]

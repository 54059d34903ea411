"""Problems with a known posterior, and distances between samples and it. Importing registers every generator."""

from ipsolve.posterior import explicit, mcgdiff, random_gaussian
from ipsolve.posterior.distances import PosteriorReference, compare
from ipsolve.posterior.problems import PROBLEMS, PosteriorProblem, ProblemSpec, parse_problems

__all__ = [
    "PROBLEMS",
    "PosteriorProblem",
    "PosteriorReference",
    "ProblemSpec",
    "compare",
    "explicit",
    "mcgdiff",
    "parse_problems",
    "random_gaussian",
]

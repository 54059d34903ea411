"""A driver that knows a solver that misbehaves: ``python -m benchmarks.faults.driver CONFIG``."""

from __future__ import annotations

import sys

from benchmarks.faults.solvers import Slow
from ipsolve.solvers import SOLVERS
from ray_jobs.evaluate import main

if __name__ == "__main__":
    SOLVERS.register(Slow)
    sys.exit(main())

"""What early stopping saved: two sweeps of the same space, one of them without it.

    python -m tuning.compare runs/with_asha runs/without

The target is the best objective that both reached. A sweep has spent, when it reaches it, the seconds of solving of the
trials that ended until then; those of the whole sweep are beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import pandas as pd

from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import read_mapping
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from tuning.config import SweepConfig
from tuning.ledger import COMPLETE
from tuning.objective import Objective, parse_objectives

# what two sweeps must have in common: the same search, on the same images
_OF_BOTH = "data prior tasks solver space objective weights seed compute.precision search.rungs"


@dataclass(frozen=True)
class Finished:
    """A sweep that has been run."""

    name: str
    config: SweepConfig
    objective: Objective
    trials: pd.DataFrame

    @classmethod
    def open(cls, location: str) -> Finished:
        """Read a sweep; RequestError if there is none, it has two objectives, or no trial that did all images."""
        run = RunFolder(location)
        if not run.exists("trials.parquet"):
            raise RequestError(f"{location} is not a finished sweep: it has no trials.parquet")
        config = build(SweepConfig, read_mapping(run.path("config.yaml")), "config.yaml")
        objectives = parse_objectives(config.objective)
        if len(objectives) != 1:
            raise RequestError(f"{location} has two objectives, which have no single best")
        trials = pd.read_parquet(run.path("trials.parquet")).sort_values("end")
        if not (trials["state"] == COMPLETE).any():
            raise RequestError(f"{location} has no best: none of its {len(trials)} trials did all images")
        return cls(location, config, objectives[0], trials)

    @property
    def score(self) -> pd.Series:
        """The objective of the complete trials, larger being better."""
        complete = self.trials[self.trials["state"] == COMPLETE]
        return self.objective.sign * complete["objective"]

    def seconds_until(self, target: float) -> float:
        """Return the seconds of solving that were spent when a trial first reached ``target``."""
        first = self.score[self.score >= target].index[0]
        return float(self.trials["seconds"].loc[:first].sum())


def compare(first: Finished, second: Finished) -> str:
    """Return the comparison as lines."""
    different = [key for key in _OF_BOTH.split() if attrgetter(key)(first.config) != attrgetter(key)(second.config)]
    if different:
        raise RequestError(
            f"{first.name} and {second.name} differ in {', '.join(different)}; "
            "allowed: two sweeps that differ in what stops trials early"
        )
    target = min(first.score.max(), second.score.max())
    spent = [each.seconds_until(target) for each in (first, second)]
    lines = [f"{'':30} {'best':>9} {'until target':>13} {'whole':>9} {'images':>7}"]
    for each, seconds in zip((first, second), spent, strict=True):
        best, trials = first.objective.sign * each.score.max(), each.trials
        whole, images = trials["seconds"].sum(), trials.get("solved", trials["images"]).sum()
        lines.append(f"{each.name:30} {best:9.4g} {seconds:11.1f} s {whole:7.1f} s {images:7d}")
    saved = spent[1] - spent[0]
    lines.append(
        f"target: {first.objective.name} {first.objective.sign * target:.4g}, the best that both reached; "
        f"{first.name} saved {saved:.1f} s of solving ({saved / spent[1]:.0%})"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tuning.compare", description=__doc__.split("\n", 1)[0])
    parser.add_argument("first", help="the folder of a sweep")
    parser.add_argument("second", help="that of the sweep it is compared with")
    options = parser.parse_args(arguments)

    def command() -> int:
        print(compare(Finished.open(options.first), Finished.open(options.second)))
        return cli.COMPLETE

    return cli.run_command(command)


if __name__ == "__main__":
    sys.exit(main())

"""``--list`` and ``--dry-run``: what there is, and what would be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from ipsolve.metrics import METRICS, SET_METRICS
from ipsolve.operators import NOISES, OPERATORS
from ipsolve.posterior import PROBLEMS
from ipsolve.priors import PRIORS
from ipsolve.solvers import SOLVERS, Solver
from ray_jobs.pipeline.cluster.allocation import Allocation
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.progress import clock

MOST_KINDS = 6


def list_registered() -> str:
    """Return every registered operator, noise, prior, solver, problem generator and metric, with its parameters."""
    lines = ["operators (tasks.NAME.operator)"]
    lines += [
        f"  {name:20} {'linear' if OPERATORS[name].linear else 'non-linear':11} "
        f"{', '.join(sorted(OPERATORS[name].signals)):45} {_fields(OPERATORS[name])}".rstrip()
        for name in OPERATORS
    ]
    lines += ["noises (tasks.NAME.noise)", *(f"  {name:20} {_fields(NOISES[name])}" for name in NOISES)]
    lines += ["priors (prior.prior)", *(f"  {name:20} {_fields(PRIORS[name])}" for name in PRIORS)]
    lines.append("solvers (solvers.NAME.solver)")
    for name in SOLVERS:
        lines += _solver(SOLVERS[name])
    lines.append("problems with a known posterior (problems.NAME.generator, for python -m ray_jobs.posterior)")
    lines += [f"  {name:20} {_fields(PROBLEMS[name])}" for name in PROBLEMS]
    lines.append("metrics (metrics)")
    lines += [
        f"  {name:20} per image, {'higher' if METRICS[name].higher_is_better else 'lower'} is better  "
        f"{_fields(METRICS[name])}".rstrip()
        for name in METRICS
    ]
    lines += [
        f"  {name:20} over the split, in the features of {SET_METRICS[name].features!r}  "
        f"{_fields(SET_METRICS[name])}".rstrip()
        for name in SET_METRICS
    ]
    return "\n".join(lines)


def _solver(cls: type[Solver]) -> list[str]:
    needs = ", ".join(sorted(cls.requires)) or "nothing"
    return [
        f"  {cls.name:20} {cls.citation}",
        f"  {'':20} {cls.family}; requires: {needs}",
        f"  {'':20} calls per image: {_cost(cls)}",
        f"  {'':20} {_fields(cls)}",
        *([f"  {'':20} presets: {', '.join(cls.PRESETS)}"] if cls.PRESETS else []),
    ]


def _cost(cls: type[Solver]) -> str:
    try:
        solver = cls()
    except (TypeError, ValueError):  # a field has no default
        return "depends on its required fields"
    kinds = [kind for kind in ("pixel", "latent") if {"pixel", "latent"} - cls.requires >= {"pixel", "latent"} - {kind}]
    costs = {kind: str(solver.cost(frozenset({kind}))) for kind in kinds}
    if len(set(costs.values())) == 1:
        return costs[kinds[0]]
    return "; ".join(f"{kind} prior: {cost}" for kind, cost in costs.items())


def _fields(cls: type) -> str:
    if not dataclasses.is_dataclass(cls):
        return ""
    words = []
    for field in dataclasses.fields(cls):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        words.append(field.name if default is dataclasses.MISSING else f"{field.name}={default}")
    return " ".join(words)


def describe_plan(plan: Plan, allocation: Allocation, facts: Iterable[str], unit: str) -> str:
    """Return the plan of a run as lines to print before anything starts.

    Args:
        facts: what the numbers will be of.
        unit: what a row is of, in the plural.
    """
    config = plan.experiment.config
    lines = [
        f"run      {config.run_location}",
        *facts,
        f"compute  {allocation}, batch size {config.compute.batch_size}, {config.compute.precision}",
        f"work     {plan.images_missing} of {plan.images_wanted} {unit} missing, in {plan.num_batches} batches",
        *_expected(plan, allocation, unit),
    ]
    for cell in plan.cells:
        n, failed = len(plan.experiment.ids_of(cell)), plan.failed[cell.hash]
        lines.append(
            f"  {cell.hash}  {cell!s:50} {plan.done[cell.hash]} of {n} done{f', {failed} failed' * (failed > 0)}"
        )
    return "\n".join(lines)


def _expected(plan: Plan, allocation: Allocation, unit: str) -> list[str]:
    """Return what is known of the time that the missing work will take, from what this run has measured so far."""
    seconds, unmeasured = plan.expected_seconds(allocation.num_actors)
    if not plan.images_missing:
        return []
    names = ", ".join(dict.fromkeys(f"{cell.task} / {cell.solver}" for cell in unmeasured))
    if not seconds:
        how = "a run with a small data.limit measures it and is continued, not repeated, by a larger one"
        return [f"time     not known before the first {unit} are done{f': {how}' * (unit == 'images')}"]
    line = f"time     about {clock(seconds)} of solving, from the seconds per row that this run has measured so far"
    return [f"{line}; not measured yet, and not in it: {names}" if unmeasured else line]


def left_out(counts: Mapping[str, int]) -> list[str]:
    """Return a line for the files that a source passed over, if there are any: the most first, the rest as one."""
    named = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    words = [f"{count} {name}" for name, count in named[:MOST_KINDS]]
    if rest := sum(count for _, count in named[MOST_KINDS:]):
        words.append(f"{rest} of other kinds")
    return [f"left out {', '.join(words)}"] if words else []


def absent_metrics(missing: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason why metrics cannot be computed here, and the way to get them."""
    reasons: dict[str, list[str]] = {}
    for name, reason in missing:
        reasons.setdefault(reason, []).append(name)
    return [f"absent   {', '.join(sorted(names))}: {reason}" for reason, names in sorted(reasons.items())]

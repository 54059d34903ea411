"""The figures of a sweep: Optuna's own, as SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import optuna.visualization.matplotlib as plots
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ipsolve.evaluation.isolation import one_line
from tuning.ledger import COMPLETE, STOPPED, Ledger, state_of
from tuning.objective import Objective
from tuning.problem import Scores
from tuning.request import Sweep

Target = Callable[[FrozenTrial], float] | None
MOST_SLICES = 5  # parameters in one figure; further ones are in the next
MOST_IN_LEGEND = 12


def comparable(sweep: Sweep, ledger: Ledger, scores: Scores) -> optuna.Study:
    """Return a study in memory in which trials that were stopped early stand beside those that did all images.

    The value of a trial is the reference's over all images plus the mean difference to the reference over the images
    that the trial did: that of a complete trial is its objective, and no trial gains by having met easy images. A trial
    without a value keeps its number.
    """
    study = optuna.create_study(directions=ledger.study.directions, study_name=sweep.config.name)
    whole = scores.objectives(sweep.reference, len(scores.problem.image_ids))
    known = all(len(values) == len(scores.problem.image_ids) for values in whole)
    for trial in ledger.trials():
        values = None
        if state_of(trial) == COMPLETE:
            values = list(trial.values)
        elif known and state_of(trial) == STOPPED:
            own = scores.objectives(sweep.space.values(trial.params), int(trial.user_attrs["images"]))
            values = [
                float(all_.mean() + (o - all_.reindex(o.index)).mean()) for all_, o in zip(whole, own, strict=True)
            ]
        study.add_trial(
            optuna.trial.create_trial(state=TrialState.FAIL)
            if values is None
            else optuna.trial.create_trial(values=values, params=trial.params, distributions=trial.distributions)
        )
    return study


def draw_figures(sweep: Sweep, ledger: Ledger, scores: Scores) -> tuple[dict[str, str], list[str]]:
    """Return ``{name: SVG}`` and a line for each figure that could not be drawn."""
    study = comparable(sweep, ledger, scores)
    if not study.get_trials(states=[TrialState.COMPLETE]):
        return {}, ["no figures: no trial has an objective"]
    names = [objective.name for objective in sweep.objectives]
    drawings: dict[str, Callable[[], Any]] = {}
    for i, objective in enumerate(sweep.objectives):
        suffix = f" of {objective.name}" if len(names) > 1 else ""
        value, cost = targets(sweep.objectives, i)
        ranked = by_importance(study, cost)
        drawn: dict[str, Any] = {"target": value, "target_name": objective.name}
        drawings[f"history{suffix}"] = partial(plots.plot_optimization_history, study, **drawn)
        bars: dict[str, Any] = {**drawn, "target": cost, "evaluator": PedAnovaImportanceEvaluator()}
        drawings[f"importance{suffix}"] = partial(plots.plot_param_importances, study, **bars)
        for number, start in enumerate(range(0, len(ranked), MOST_SLICES), 1):
            name = "slices" if number == 1 else f"slices {number}"
            shown = ranked[start : start + MOST_SLICES]
            drawings[name + suffix] = partial(plots.plot_slice, study, shown, **drawn)
        if len(ranked) > 1:
            drawings[f"contour{suffix}"] = partial(plots.plot_contour, study, ranked[:2], **drawn)
    if len(names) == 1:
        drawings["rungs"] = partial(plots.plot_intermediate_values, ledger.study)
    else:
        drawings["front"] = partial(plots.plot_pareto_front, ledger.study, target_names=names)
    figures, notes = {}, []
    for name, draw in drawings.items():
        try:
            figures[name] = _svg(draw)
        except Exception as error:  # the numbers are on disk, and a figure must not fail the sweep
            notes.append(f"no figure {name}: {one_line(error)}")
    return figures, notes


def targets(objectives: Sequence[Objective], i: int) -> tuple[Target, Target]:
    """Return what a trial is drawn by and what its importance goes by; None of a single objective: Optuna knows it.

    A target has no direction, and PED-ANOVA takes low ones for good.
    """
    if len(objectives) == 1:
        return None, None
    sign = objectives[i].sign
    return lambda trial: float(trial.values[i]), lambda trial: -sign * float(trial.values[i])


def by_importance(study: optuna.Study, cost: Target) -> list[str]:
    """Return the parameters, the most important first."""
    names = sorted({name for trial in study.trials for name in trial.params})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=cost)
    except (RuntimeError, ValueError):  # too few trials, or all alike
        return names
    return [*found, *(name for name in names if name not in found)]


def _svg(draw: Callable[[], Any]) -> str:
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    # Optuna draws with pyplot and changes the style of the process
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ipsolve"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plt.switch_backend("agg")
        axes = np.ravel(draw())
        for each in axes:
            _tidy(each)
        figure: Figure = axes[0].get_figure()
        figure.savefig(buffer, format="svg", facecolor="white", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _tidy(axes: Axes) -> None:
    """Take away what does not fit: a legend with a line per trial, and labels between the powers of ten."""
    legend = axes.get_legend()
    if legend is not None and len(legend.get_texts()) > MOST_IN_LEGEND:
        legend.remove()
    if axes.get_xscale() == "log":
        axes.xaxis.set_minor_formatter(NullFormatter())

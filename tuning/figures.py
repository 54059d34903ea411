"""The figures of a sweep: Optuna's own, as SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import optuna.visualization.matplotlib as plots
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ray_jobs.pipeline.isolation import one_line
from tuning.ledger import COMPLETE, DIVERGED, Ledger, state_of
from tuning.problem import Scores
from tuning.request import Sweep

MOST_SLICES = 8  # fields in one figure


def comparable(sweep: Sweep, ledger: Ledger, scores: Scores) -> optuna.Study:
    """Return a study in memory in which trials that were stopped early stand beside those that did all images.

    The value of a trial is the reference's over all images plus the mean difference to the reference over the images
    that the trial did: that of a complete trial is its objective, and no trial gains by having met easy images.
    """
    study = optuna.create_study(directions=ledger.study.directions, study_name=sweep.config.name)
    whole = scores.objectives(sweep.reference, len(scores.problem.image_ids))
    known = all(len(values) == len(scores.problem.image_ids) for values in whole)
    for trial in ledger.trials():
        if state_of(trial) == COMPLETE:
            values = list(trial.values)
        elif known and trial.state.is_finished() and state_of(trial) != DIVERGED:
            own = scores.objectives(sweep.space.values(trial.params), int(trial.user_attrs["images"]))
            values = [
                float(all_.mean() + (o - all_.reindex(o.index)).mean()) for all_, o in zip(whole, own, strict=True)
            ]
        else:
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE, values=values, params=trial.params, distributions=trial.distributions
            )
        )
    return study


def draw_figures(sweep: Sweep, ledger: Ledger, scores: Scores) -> tuple[dict[str, str], list[str]]:
    """Return ``{name: SVG}`` and a line for each figure that could not be drawn."""
    study = comparable(sweep, ledger, scores)
    names = [objective.name for objective in sweep.objectives]
    targets = _targets(names)
    ranked = _by_importance(study, targets[0][1])
    drawings: dict[str, Callable[[], Any]] = {}
    for name, target in targets:
        suffix = f" of {name}" if len(names) > 1 else ""
        drawn: dict[str, Any] = {"target": target, "target_name": name}
        evaluator = PedAnovaImportanceEvaluator()
        drawings[f"history{suffix}"] = partial(plots.plot_optimization_history, study, **drawn)
        drawings[f"importance{suffix}"] = partial(plots.plot_param_importances, study, evaluator, **drawn)
        drawings[f"slices{suffix}"] = partial(plots.plot_slice, study, ranked[:MOST_SLICES], **drawn)
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


def _targets(names: list[str]) -> list[tuple[str, Callable[[FrozenTrial], float] | None]]:
    if len(names) == 1:
        return [(names[0], None)]
    return [(name, lambda trial, i=i: trial.values[i]) for i, name in enumerate(names)]  # type: ignore[misc]


def _by_importance(study: optuna.Study, target: Callable[[FrozenTrial], float] | None) -> list[str]:
    """Return the parameters, the most important first."""
    names = sorted({name for trial in study.trials for name in trial.params})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=target)
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
        axes = draw()
        figure: Figure = np.ravel(axes)[0].get_figure()
        figure.savefig(buffer, format="svg", facecolor="white", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

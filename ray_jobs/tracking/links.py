"""Links into MLflow's pages: the runs that belong together, their columns chosen and sorted, and beside each other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ipsolve.metrics import METRICS
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.tracking.overview import headline_in
from ray_jobs.tracking.store import MEMORY, client_of, digest, store_name, store_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHARED = "mlflow.sharedViewState."  # tag of an experiment under which MLflow's page looks up a view
MOST_COMPARED = 100  # runs beside each other; the page asks the server for each of them
FIRST = ("psnr", "ssim", "lpips", "fid", "seconds_per_image")
RANKS = ("best", "median", "worst")

Chart = dict[str, Any]


def bars(metric: str) -> Chart:
    """Return a chart of a metric, a bar for each run."""
    return {"type": "BAR", "metricKey": metric, "displayName": metric, "runsCountToCompare": 20}


def line(metric: str) -> Chart:
    """Return a chart of a metric over its steps."""
    shape = {"lineSmoothness": 0, "xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
    range_ = {"xMin": None, "xMax": None, "yMin": None, "yMax": None}
    about = {"metricKey": metric, "selectedMetricKeys": [metric], "displayName": f"{metric} over images done"}
    return {"type": "LINE", **about, **shape, "range": range_, "useGlobalXaxisKey": False}


def scatter(x: str, y: str) -> Chart:
    """Return a chart of one metric against another."""
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return {"type": "SCATTER", "displayName": f"{y} against {x}", **axes, "runsCountToCompare": 100}


def parallel(parameters: Sequence[str], metrics: Sequence[str]) -> Chart:
    """Return parallel coordinates."""
    about = {"selectedParams": [*parameters], "selectedMetrics": [*metrics], "showAllRuns": True}
    return {"type": "PARALLEL", "displayName": "Trials", **about, "runsCountToCompare": 500}


def image_grid(key: str) -> Chart:
    """Return a grid of the images of all runs under a key."""
    return {"type": "IMAGE", "imageKeys": [key], "displayName": key, "step": 0, "showRunParams": False}


@dataclass(frozen=True)
class View:
    """What a page of runs shows: which, sorted by what, and in which columns."""

    key: str
    state: dict[str, Any]

    @classmethod
    def of(
        cls, runs: str, columns: Sequence[str], order: str, ascending: bool, charts: Mapping[str, Sequence[Chart]]
    ) -> View:
        """Return a view.

        Args:
            runs: a filter in MLflow's words.
            columns: in MLflow's words, such as ``metrics.`psnr```.
            order: the column that they are sorted by.
            ascending: smallest first.
            charts: by the heading of their section; MLflow adds one for each other metric below.
        """
        facets = {
            **{"searchFilter": runs, "orderByKey": order, "orderByAsc": ascending, "startTime": "ALL"},
            **{"lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": []},
        }
        state = {**facets, "selectedColumns": [*columns], "runsExpanded": {}, "runsPinned": [], "runsHidden": []}
        sections = [{"uuid": name, "name": name, "display": True, "isReordered": True} for name in charts]
        cards = [
            {"uuid": f"{name}-{i}", "metricSectionId": name, "deleted": False, "isGenerated": False, **chart}
            for name, found in charts.items()
            for i, chart in enumerate(found)
        ]
        state |= {"compareRunSections": sections, "compareRunCharts": cards, "isAccordionReordered": True}
        return cls(digest([runs, state]), state)

    @classmethod
    def of_run(cls, parent: str, headline: str | None, tasks: Sequence[str]) -> View:
        """Return the view of every task and solver of a run, the best by the headline metric first."""
        images = {f"{task} images": [image_grid(f"{task}/{rank}") for rank in RANKS] for task in tasks}
        numbers: dict[str, Sequence[Chart]] = {}
        if headline is not None:
            cost = "seconds_per_image"
            numbers["Methods"] = [bars(headline), scatter(cost, headline), line(f"running/{headline}"), bars(cost)]
        order, ascending = "attributes.`Created`", True
        if headline is not None:
            order, ascending = f"metrics.`{headline}`", not METRICS[headline].higher_is_better
        shown = [*FIRST, *([headline] if headline and headline not in FIRST else [])]
        columns = ["tags.`task`", "tags.`solver`", *(f"metrics.`{name}`" for name in shown)]
        return cls.of(children_of(parent), columns, order, ascending, numbers | images)

    @classmethod
    def of_sweep(cls, parent: str, objectives: Sequence[str], fields: Sequence[str], smallest: bool) -> View:
        """Return the view of the trials of a sweep, the best by the first objective first."""
        columns = [*(f"metrics.`{name}`" for name in objectives), *(f"params.`{name}`" for name in fields)]
        columns += ["metrics.`images`", "metrics.`seconds`", "tags.`state`", "tags.`reference`"]
        first = objectives[0]
        other = objectives[1] if len(objectives) > 1 else "seconds"
        charts = {"Trials": [parallel(fields, objectives), scatter(other, first), bars(first)]}
        return cls.of(children_of(parent), columns, f"metrics.`{first}`", smallest, charts)


def children_of(parent: str) -> str:
    """Return MLflow's filter for the children of a run; it knows no OR."""
    return f"tags.`mlflow.parentRunId` = '{parent}'"


def share_view(client: MlflowClient, experiment_id: str, view: View) -> str:
    """Put a view where MLflow's page finds it; return its key."""
    client.set_experiment_tag(experiment_id, f"{SHARED}{view.key}", json.dumps(view.state))
    return view.key


@dataclass(frozen=True)
class Shown:
    """A run or sweep in MLflow: where, and which of the runs there."""

    run: RunFolder
    uri: str
    experiment_id: str
    parent: str
    view: View

    @classmethod
    def of(cls, run: RunFolder, config: dict[str, Any] | None = None) -> Shown:
        """Return where a run is, by its ``config.yaml`` unless that is given; RequestError if it has not been sent."""
        config = cli.read_config(run) if config is None else config
        uri, _ = store_of(run, config)
        found = client_of(uri).get_experiment_by_name(config["tracking"]["experiment"])
        parents = run.read_json(MEMORY).get("parents", {})
        parent = parents.get(store_name(config, str(found.experiment_id))) if found else None
        if found is None or parent is None:
            command = f"python -m ray_jobs.track {shlex.quote(run.location)}"
            raise RequestError(run.location, f"is not in MLflow yet; allowed: what {command} has sent")
        return cls(run, uri, str(found.experiment_id), str(parent), view_of(config, str(parent)))

    def children(self) -> list[str]:
        """Return the ids of the runs below this one, in the order of the view."""
        order = self.view.state["orderByKey"]
        by = [f"{order} {'ASC' if self.view.state['orderByAsc'] else 'DESC'}"] if order.startswith("metrics") else []
        return [
            str(each.info.run_id)
            for each in client_of(self.uri).search_runs(
                [self.experiment_id], self.view.state["searchFilter"], max_results=MOST_COMPARED, order_by=by
            )
        ]


def view_of(config: dict[str, Any], parent: str) -> View:
    """Return the view that a run or a sweep is looked at by."""
    if "space" not in config:
        return View.of_run(parent, headline_in(config), list(config.get("tasks", [])))
    given = config["objective"]
    first, names = (given, ["objective"]) if isinstance(given, dict) else (given[0], ["objective_1", "objective_2"])
    metric = first.get("metric")
    down = isinstance(metric, str) and metric in METRICS and not METRICS[metric].higher_is_better
    return View.of_sweep(parent, names, list(config["space"]), first.get("mode", "min" if down else "max") == "min")


def links(shown: Sequence[Shown], server: str | None = None) -> list[str]:
    """Return lines with links to runs of one store, or how to get there where no server is known.

    Args:
        shown: the runs.
        server: the address of a server of their store; if left out, that of the store, if it is one.
    """
    uri = shown[0].uri
    base = server or (uri.rstrip("/") if uri.startswith(("http://", "https://")) else None)
    if base is None:
        names = " ".join(shlex.quote(each.run.location) for each in shown)
        return [f"look     python -m ray_jobs.track {names} --open"]
    lines = []
    for each in shown:
        share_view(client_of(each.uri), each.experiment_id, each.view)
        page = f"{base}/#/experiments/{each.experiment_id}/runs?viewStateShareKey={each.view.key}"
        lines += [f"runs     {page}&compareRunsMode=TABLE", f"charts   {page}&compareRunsMode=CHART"]
    compared = [each.parent for each in shown] if len(shown) > 1 else shown[0].children()
    lines += [f"compare  {compare_page(base, compared, [each.experiment_id for each in shown])}"] * (len(compared) > 1)
    return lines


def compare_page(base: str, runs: Sequence[str], experiments: Sequence[str]) -> str:
    """Return the address of the page with runs beside each other; of a sweep it shows parallel coordinates."""
    asked = {"runs": list(runs), "experiments": list(dict.fromkeys(experiments))}
    query = "&".join(f"{name}={quote(json.dumps(value, separators=(',', ':')))}" for name, value in asked.items())
    return f"{base}/#/compare-runs?{query}"

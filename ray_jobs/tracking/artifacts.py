"""What MLflow's own viewer shows of a run: report, tables and figures, and images of all methods side by side."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from ipsolve import report
from ipsolve.evaluation.isolation import one_line
from ipsolve.report.strips import Picture, strips
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import read_tables
from ray_jobs.tracking.copies import Copies, Pair

FILES = ("report.html", "report.md", "summary.csv", "comparisons.csv", "config.yaml", "provenance.json")
TABLES = ("summary", "comparisons")
MOST_IMAGES = 600  # of a run; beyond that only those in the middle of the ranking, then none
_TAG_TABLES, _TAG_IMAGES = "mlflow.loggedArtifacts", "mlflow.loggedImages"


def log_artifacts(copies: Copies, children: Mapping[Pair, str]) -> None:
    """Send files, figures and tables of a run to its parent, and images to the parent and the children."""
    run, client = copies.run, copies.client
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "figures").mkdir()
        for name in [*filter(run.exists, FILES), *_figures(run)]:
            Path(folder, name).write_bytes(run.read(run.path(name)))
        tables = [name for name in TABLES if run.exists(f"{name}.csv")]
        for name in tables:
            # as MlflowClient.log_table writes it, which adds to the rows of a table that is there
            table = pd.read_csv(io.BytesIO(run.read(run.path(f"{name}.csv"))))
            table.to_json(Path(folder, f"{name}.json"), orient="split", index=False)
        client.log_artifacts(copies.parent, folder)
    shown = [{"path": f"{name}.json", "type": "table"} for name in tables]
    client.set_tag(copies.parent, _TAG_TABLES, json.dumps(shown))
    if "problems" not in copies.config:
        _log_images(copies, children)


def _figures(run: RunFolder) -> list[str]:
    # only names as we give them: an object in a store may be called "../x", and must not become a file elsewhere
    paths = [path for kind in (".svg", ".png") for path in run.files("figures", suffix=kind)]
    names = [path.removeprefix(run.path("figures/")) for path in paths]
    return [f"figures/{name}" for name in names if re.fullmatch(r"[\w-]+\.(svg|png)", name)]


def _log_images(copies: Copies, children: Mapping[Pair, str]) -> None:
    """Send the strips of the report: of each task the best, median and worst portrait of the baseline.

    A key is a portrait, so that the image grid of MLflow has a row for each and a column for each method; the truth
    is a column, too, that of the parent. The step is the number of images of the run.
    """
    from mlflow.tracking.multimedia import compress_image_size

    try:
        view = report.open_run(copies.run, read_tables(copies.run))
        found = {task: strips(view, task) for task in view.tasks} if len(view.rows) else {}
    except Exception as error:  # the numbers are there, and pictures must not cost them, whatever is in the files
        logging.getLogger(__name__).debug("no images: %s", one_line(error))
        return
    if sum(len(strip.pictures) for drawn in found.values() for strip in drawn) > MOST_IMAGES:
        found = {task: [strip for strip in drawn if strip.rank in ("median", "only")] for task, drawn in found.items()}
    if sum(len(strip.pictures) for drawn in found.values() for strip in drawn) > MOST_IMAGES:
        return
    by_run: dict[str, list[tuple[str, Picture]]] = {}
    for task, drawn in found.items():
        for strip in drawn:
            for picture in strip.pictures:
                target = children.get((task, picture.name), copies.parent)
                kind = " measurement" if picture.name == "measurement" else ""
                if picture.source:
                    by_run.setdefault(target, []).append((f"{task}/{strip.rank}{kind}", picture))
    step = view.rows["image_id"].nunique()
    for run_id, pictures in by_run.items():
        with tempfile.TemporaryDirectory() as folder:
            for key, picture in pictures:
                content = base64.b64decode(picture.source.partition(",")[2])
                # the name by which MLflow finds them, as MlflowClient.log_image gives it with a name that is never the
                # same: here the same picture is the same file, however often it is sent
                digest = hashlib.sha256(content).hexdigest()[:32]
                name = f"{key.replace('/', '~')}+step+{step}+timestamp+{copies.end}+{digest}"
                Path(folder, f"{name}.png").write_bytes(content)
                compress_image_size(Image.open(io.BytesIO(content))).save(Path(folder, f"{name}+compressed.webp"))
            copies.client.log_artifacts(run_id, folder, "images")
        copies.client.set_tag(run_id, _TAG_IMAGES, "true")

"""MLflow's own pages in a real browser, by the links that a run prints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.browser import DESKTOP, PHONE, Browser, executable
from ipsolve.report import build_report
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import read_tables
from ray_jobs import cli, track
from ray_jobs.tracking.links import Shown, links
from ray_jobs.tracking.serving import server
from tests.ray_jobs.stores import make_store
from tests.synthetic_run import write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="no Chromium is installed (apt-get install chromium)"),
]
SOLVERS = ("tv", "ddnm", "resample")


def finished_run(folder: Path) -> RunFolder:
    """Write a run of made-up solvers, with all that a job writes."""
    path = write_run(folder / "demo", images=4, size=32, solvers=SOLVERS)
    given = yaml.safe_load((path / "config.yaml").read_text()) | {"output": str(folder)}
    config = dataclasses.asdict(build(Config, given, "config"))
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    times = {"start": "2026-01-01T10:00:00.000+00:00", "end": "2026-01-01T10:02:00.000+00:00"}
    (path / "provenance.json").write_text(json.dumps(times | {"git_commit": "0123abc", "git_dirty": False}))
    build_report(str(path))
    return RunFolder(path)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    make_store(folder)
    run = finished_run(folder)
    assert track.main([run.root]) == cli.COMPLETE
    return run


@pytest.fixture(scope="module")
def addresses(sent: RunFolder) -> Iterator[dict[str, str]]:
    shown = Shown.of(sent)
    with server(shown.uri) as (address, _):
        found = dict(line.split(maxsplit=1) for line in links([shown], address))
        yield found | {"parent": f"{address}/#/experiments/{shown.experiment_id}/runs/{shown.parent}"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_table_has_the_methods_sorted_with_their_columns(
    browser: Browser, sent: RunFolder, addresses: dict[str, str], size: tuple[int, int]
) -> None:
    browser.resize(size)
    browser.open(addresses["runs"])
    rows = read_tables(sent).summary.sort_values("psnr", ascending=False)
    names = [f"{row.task} / {row.solver}" for row in rows.itertuples()]
    # the page counts its runs before it shows them, and their numbers come last
    for words in ("6 matching runs", *names, *([f"{rows['psnr'].iloc[-1]:.6f}"[:6]] if size == DESKTOP else [])):
        browser.wait(f"document.body.innerText.includes({json.dumps(words)})")
    text = browser.text()
    assert sorted(names, key=text.index) == names
    if size == DESKTOP:
        for word in ("psnr", "ssim", "seconds_per_image", "task", "solver"):
            assert word in text
        assert f"{rows['psnr'].iloc[0]:.6f}"[:6] in text


def test_the_charts_compare_methods_and_the_grid_shows_their_portraits(
    browser: Browser, addresses: dict[str, str]
) -> None:
    browser.resize(DESKTOP)
    browser.open(addresses["charts"])
    browser.wait("document.body.innerText.includes('sr4 images') && document.body.innerText.includes('Methods')")
    browser.wait("document.querySelectorAll('.js-plotly-plot').length >= 3")
    # it loads what is in sight
    headings = "[...document.querySelectorAll('*')].filter((e) => e.innerText === 'sr4 images')"
    browser.run(f"{headings}.forEach((e) => e.scrollIntoView())")
    seen = "[...document.images].filter((i) => i.src.includes('sr4~best') && i.naturalWidth > 0).length"
    browser.wait(f"{seen} >= 3")


def test_the_compare_page_has_all_of_them(browser: Browser, addresses: dict[str, str]) -> None:
    browser.open(addresses["compare"])
    browser.wait("document.body.innerText.includes('Comparing 6 Runs')")
    browser.wait("document.body.innerText.includes('sr4 / ddnm') && document.querySelector('.js-plotly-plot') !== null")


def test_the_report_and_the_tables_open_in_the_viewer(browser: Browser, addresses: dict[str, str]) -> None:
    browser.open(f"{addresses['parent']}/artifacts/summary.json")
    browser.wait("document.body.innerText.includes('seconds_per_image') && document.body.innerText.includes('ddnm')")
    browser.open(f"{addresses['parent']}/artifacts/report.html")
    browser.wait("document.querySelector('iframe') !== null")

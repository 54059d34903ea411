"""The report in a real browser, each part by what is on it, on a desktop and on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser import DESKTOP, PHONE, Browser, executable
from ipsolve.report import RunView, build_report, open_run
from ipsolve.report.comparison import compare_runs, render_comparison
from tests.synthetic_run import SOLVERS, write_run

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is installed (apt-get install chromium)")
SHOWN = (
    "[...document.querySelectorAll('#overview tbody tr')].filter((r) => r.checkVisibility())"
    ".map((r) => r.dataset.solver)"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", images=4, size=32)


@pytest.fixture(scope="module")
def address(run: Path) -> str:
    return Path(build_report(str(run))).as_uri()


@pytest.fixture(scope="module")
def view(run: Path) -> RunView:
    return open_run(str(run))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    browser.resize(DESKTOP)
    browser.open(address)
    return browser


def test_the_page_opens_without_an_error_or_a_request(page: Browser, address: str) -> None:
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("data:")] == ["about:blank", address][-1:]


def test_the_overview_has_the_means_and_shades_the_best(page: Browser, view: RunView) -> None:
    cells = page.run(
        "[...document.querySelectorAll('#overview td')].map((c) => [c.parentElement.dataset.solver, c.dataset.task,"
        " c.textContent.trim(), c.classList.contains('best'), getComputedStyle(c).backgroundColor])"
    )
    own = view.summary.set_index(["task", "solver"])["psnr"]
    assert len(cells) == 2 * len(SOLVERS)
    for solver, task, text, best, _ in cells:
        assert text.rstrip("=") == f"{own[task, solver]:.2f}"
        assert best == (own[task].idxmax() == solver)
    assert len({colour for *_, colour in cells}) > 3


def test_figures_use_the_width_of_the_page(page: Browser) -> None:
    main, *plots = page.run(
        "[document.querySelector('main'), ...document.querySelectorAll('.plot.wide svg, .plots')]"
        ".map((e) => e.clientWidth || e.getBoundingClientRect().width)"
    )
    assert main > 1300
    assert plots
    assert all(width > 0.9 * main for width in plots)


def test_filters_reach_tables_figures_and_images_and_stay_in_the_address(page: Browser, address: str) -> None:
    page.press("/")
    for letter in "tv, ddnm":
        page.press(letter)
    assert page.run(SHOWN) == ["tv", "ddnm"]
    page.click("#filters button[value=inpaint_box]")
    count = "(selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility()).length"
    for selector, shown in (
        ("#summary table", 1),
        ("#images .strip", 3),
        ("#images figure[data-solver=tv]", 3),
        ("#images figure[data-solver=resample]", 0),
    ):
        assert page.run(f"({count})({json.dumps(selector)})") == shown
    marks = "[...document.querySelectorAll('svg [data-solver=\"NAME\"]')].map((g) => g.style.display)"
    assert set(page.run(marks.replace("NAME", "resample"))) == {"none"}
    assert set(page.run(marks.replace("NAME", "tv"))) == {""}
    kept = page.run("location.href")
    page.open(kept)
    assert page.run(SHOWN) == ["tv", "ddnm"]
    page.open(address)
    assert len(page.run(SHOWN)) == len(SOLVERS)


def test_a_table_is_sorted_from_the_keyboard(page: Browser, view: RunView) -> None:
    page.run("document.querySelector('#summary th.number').focus()")
    page.press("Enter")
    found = page.run("[...document.querySelector('#summary tbody').rows].map((r) => r.dataset.solver)")
    own = view.summary[view.summary["task"] == "sr4"].set_index("solver")["psnr"]
    assert found == list(own.sort_values().index)


def test_images_are_zoomed_together_and_show_their_errors(page: Browser) -> None:
    page.click(".strip button")
    assert page.run("document.querySelectorAll('.panels .view').length") == 2 + len(SOLVERS)
    x, y = page.run(
        "(() => { const r = document.querySelector('.view').getBoundingClientRect();"
        " return [r.x + r.width / 4, r.y + r.height / 4] })()"
    )
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
    moved = page.wait(
        "(() => { const t = [...document.querySelectorAll('.view img')].map((i) => getComputedStyle(i).transform);"
        " return t[0].includes('matrix(1, 0, 0, 1, 0, 0)') ? null : t })()"
    )
    matrices = [[float(entry) for entry in each.removeprefix("matrix(").rstrip(")").split(",")] for each in moved]
    assert matrices[0][0] == pytest.approx(2.718, abs=0.01)
    for each in matrices:
        assert each == pytest.approx(matrices[0], abs=0.05)  # all by the same; panels differ by parts of a pixel
    page.press("e")
    assert page.run("document.querySelectorAll('.view canvas').length") == len(SOLVERS)  # not of truth and measurement
    own = """(() => {
      const pixels = (image) => { const c = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const p = c.getContext('2d'); p.drawImage(image, 0, 0); return p.getImageData(0, 0, c.width, c.height).data };
      const views = [...document.querySelectorAll('.view')], truth = pixels(views[0].querySelector('img'));
      return views.slice(2).map((view) => {
        const x = pixels(view.querySelector('img')), c = view.querySelector('canvas');
        const map = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let error = 0, bright = 0;
        for (let i = 0; i < x.length; i += 4) for (let k = 0; k < 3; k++) {
          error += Math.abs(x[i + k] - truth[i + k]); bright += map[i + k] }
        return [view.dataset.solver, error, bright] }) })()"""
    maps = page.run(own)
    by_error, by_brightness = (sorted(maps, key=lambda entry, i=i: entry[i])[0][0] for i in (1, 2))
    assert by_error == by_brightness
    page.press("0")
    page.press("Escape")
    assert not page.run("document.getElementById('viewer').open")
    assert page.run("document.activeElement === document.querySelector('.strip button')")
    assert page.errors == []


def contrast(page: Browser) -> list[float]:
    """Return the contrast of texts with what is behind them (WCAG 2.2), in the page and in the overview."""
    return page.run("""(() => {
      const rgb = (text) => { const c = new OffscreenCanvas(1, 1), p = c.getContext('2d'); p.fillStyle = text;
        p.fillRect(0, 0, 1, 1); return [...p.getImageData(0, 0, 1, 1).data].slice(0, 3) };
      const paper = rgb(getComputedStyle(document.body).backgroundColor);
      const behind = (e) => { const c = new OffscreenCanvas(1, 1), p = c.getContext('2d');
        p.fillStyle = `rgb(${paper})`; p.fillRect(0, 0, 1, 1); p.fillStyle = getComputedStyle(e).backgroundColor;
        p.fillRect(0, 0, 1, 1); return [...p.getImageData(0, 0, 1, 1).data].slice(0, 3) };
      const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = (c) => { const [r, g, b] = c.map((v) => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b };
      const seen = [...document.querySelectorAll('#overview td, #overview td .tie, .muted, h1, nav a, .number small')];
      return seen.map((e) => { const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e.closest('td') ?? e));
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }) })()""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_in_the_dark(page: Browser, scheme: str) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    papers = [page.run("getComputedStyle(document.body).backgroundColor")]
    assert min(contrast(page)) > 4.5
    page.click("#theme")
    papers.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert len(set(papers)) == 2
    assert min(contrast(page)) > 4.5
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])


def test_a_phone_scrolls_down_and_never_sideways(page: Browser) -> None:
    page.resize(PHONE)
    width, inner = page.run("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner == PHONE[0]
    page.click(".strip button")
    columns = page.run("new Set([...document.querySelectorAll('.view')].map((v) => v.getBoundingClientRect().x)).size")
    assert columns == 2
    page.press("Escape")


def test_a_comparison_of_two_runs_has_a_page(browser: Browser, run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", images=3, size=32, solvers=("tv", "resample"))
    file = tmp_path / "comparison.html"
    file.write_text(render_comparison(compare_runs([open_run(str(run)), open_run(str(other))])))
    browser.resize(DESKTOP)
    browser.open(file.as_uri())
    assert "Paired differences to demo" in browser.text()
    assert "3 images that all runs have" in browser.text()
    assert browser.errors == []


def test_all_is_laid_out_soon_after_the_page_opened(page: Browser) -> None:
    """It opens with what is in sight: 40 solvers by 12 tasks would take twice as long (benchmarks/report_page)."""
    styles = "[...document.querySelectorAll('section, .strip')].map((each) => getComputedStyle(each).contentVisibility)"
    page.wait(f"{styles}.every((each) => each === 'visible')", 5)
    assert page.run(f"{styles}.length") > 3
    assert page.run("document.images.length > 0 && [...document.images].every((each) => each.offsetHeight > 0)")

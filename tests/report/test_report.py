"""The report: one page without the network, that tells the whole truth of a run, whatever is missing from it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from ipsolve.conventions import UNITS
from ipsolve.report import RunView, build_report, console_table, document_table, markdown, open_run
from ipsolve.report.strips import choose, strips
from ipsolve.report.tables import headline, number, published_lines, shown_columns, task_lines
from ipsolve.report.view import Published
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import read_mapping
from ray_jobs import report as command
from tests.synthetic_run import write_run

PUBLISHED = Path(__file__).parents[2] / "configs" / "paper" / "published"


def fail_some(row: dict[str, object]) -> dict[str, object] | None:
    if row["solver"] == "tv" and row["image_id"] == "portraits/00001":
        return None
    if row["solver"] == "ddnm" and row["image_id"] == "portraits/00000":
        return {**row, "psnr": float("nan"), "ssim": None, "measurement": None, "features": None}
    return row


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return write_run(folder, size=32, edit=fail_some, published=str(PUBLISHED / "kuang2026_ffhq.yaml"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return Path(build_report(str(run))).read_text()


@pytest.fixture(scope="module")
def view(run: Path) -> RunView:
    return open_run(str(run))


class Links(HTMLParser):
    """Collects every address that a browser would fetch, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        if tag not in ("meta", "img", "input", "br", "wbr", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(page: str) -> None:
    links = Links()
    links.feed(page)
    assert links.open == []
    assert links.addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in links.addresses)
    assert "url(http" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_shows_every_part(page: str) -> None:
    for part in ("summary", "comparisons", "ranks", "cost", "images", "published", "failures", "provenance"):
        assert f'<section id="{part}">' in page
    assert page.count("<svg") == 5  # forests of psnr and ssim, ranks, two of cost
    assert "0123abc" in page
    assert "nullspace_resample:" in page  # the configuration
    assert UNITS.replace("&", "&amp;") in page.replace("&#39;", "'")


def test_absent_metrics_come_with_the_way_to_get_them(run: Path, view: RunView, page: str) -> None:
    absent = view.absent_metrics()
    assert set(absent) == {"lpips", "fid", "kid"}
    for text in (page, (run / "report.md").read_text(), console_table(view)):
        assert "curl -fL --create-dirs" in text


def test_figures_are_files_too(run: Path, page: str) -> None:
    for name in ("forest_psnr", "forest_ssim", "ranks", "cost_seconds", "cost_calls"):
        svg = (run / "figures" / f"{name}.svg").read_text()
        assert svg.startswith("<svg")
        assert not re.search("#010203|#040506|#070809|var\\(", svg)  # no stand-in colour is left
    assert "#010203" not in page


def test_text_from_a_run_is_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=2, size=32, solvers=("tv", "resample"), tasks=("sr4",))
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace("portraits:test", "<script>alert(1)</script>"))
    assert "<script>alert" not in Path(build_report(str(folder))).read_text()


def test_best_is_best_and_a_tie_is_a_tie(view: RunView) -> None:
    columns = shown_columns(view.summary)
    position = [column.key for column in columns].index("psnr")
    for task in view.tasks:
        entries = {line.solver: line.entries[position] for line in task_lines(view, task, columns)}
        own = view.summary[view.summary["task"] == task].set_index("solver")["psnr"]
        found = headline(view, task)
        assert found is not None
        assert [name for name, entry in entries.items() if entry.best] == [own.idxmax()] == [found.best]
        assert {name for name, entry in entries.items() if entry.tie} == set(found.ties)
        assert not entries["pseudo_inverse"].tie  # 3 dB behind on every image


def test_strips_are_chosen_by_rule_and_are_the_same_for_all_solvers(view: RunView) -> None:
    own = view.rows[(view.rows["task"] == "sr4") & (view.rows["solver"] == "resample")]
    drawn = {strip.rank: strip for strip in strips(view, "sr4")}
    assert drawn["best"].image_id == own.loc[own["psnr"].idxmax(), "image_id"]
    assert drawn["worst"].image_id == own.loc[own["psnr"].idxmin(), "image_id"]
    for strip in drawn.values():
        assert [picture.name for picture in strip.pictures] == ["truth", "measurement", *view.solvers]
        assert all(picture.source for picture in strip.pictures[:2])


def test_of_several_samples_the_first_is_shown_and_all_are_in_the_means(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=4, size=32, tasks=("sr4",), samples=3)
    assert (
        "4 images of <code>portraits:test</code>, 3 samples of each image."
        in Path(build_report(str(folder))).read_text()
    )
    view = open_run(str(folder))
    rows = view.rows[view.rows["solver"] == "resample"].set_index(["image_id", "sample"])["psnr"]
    assert len(rows) == 4 * 3
    summary = view.summary.set_index("solver").loc["resample"]
    assert (summary["n"], summary["psnr"]) == (4, pytest.approx(rows.mean()))
    first = rows.xs(0, level="sample")
    for strip in strips(view, "sr4"):
        shown = next(picture for picture in strip.pictures if picture.name == "resample")
        assert shown.figure == f"{first[strip.image_id]:.2f} dB"
    assert {strip.rank: strip.image_id for strip in strips(view, "sr4")}["best"] == first.idxmax()


def test_median_of_a_ranking() -> None:
    rows = pd.DataFrame({"image_id": list("abcde"), "psnr": [3.0, 5.0, 1.0, float("nan"), 2.0]})
    assert choose(rows, "psnr") == {"best": "b", "median": "e", "worst": "c"}
    assert choose(rows[:1], "psnr") == {"only": "a"}
    assert choose(rows[:0], "psnr") == {}
    assert choose(rows.rename(columns={"psnr": "lpips"}), "lpips") == {"best": "c", "median": "a", "worst": "b"}


def test_published_figures_stand_beside_measured_ones(view: RunView, page: str) -> None:
    assert view.published is not None
    lines = {(line.task, line.solver): line.entries for line in published_lines(view, view.published)}
    told, own, _, difference = lines["sr4", "resample"][0]
    measured = view.summary.set_index(["task", "solver"])["psnr"]["sr4", "resample"]
    assert (told, own, difference) == ("28.93", number(measured, 2), number(measured - 28.93, 2, True))
    assert lines["motion_blur", "resample"][0][1] == "–"  # not part of this run
    assert "Kuang" in page


def with_lpips(row: dict[str, object]) -> dict[str, object]:
    return {**row, "lpips": 1 - float(str(row["psnr"])) / 100}  # where PSNR is largest it is smallest


@pytest.mark.parametrize("metric", ["ssim", "lpips"])
def test_a_run_is_read_by_the_metric_that_it_names(tmp_path: Path, metric: str) -> None:
    folder = write_run(tmp_path / "run", images=4, size=32, edit=with_lpips, headline=metric)
    page, view = Path(build_report(str(folder))).read_text(), open_run(str(folder))
    best = {"ssim": "idxmax", "lpips": "idxmin"}[metric]
    for task in view.tasks:
        found, own = headline(view, task), view.summary[view.summary["task"] == task].set_index("solver")
        assert found is not None
        assert found.best == getattr(own[metric], best)()
        assert found.figure == f"{own[metric][found.best]:.4f} ± {own[f'{metric}_ci95'][found.best]:.4f} over 4 images"
        ranks = {strip.rank: strip.image_id for strip in strips(view, task)}
        rows = view.rows[(view.rows["task"] == task) & (view.rows["solver"] == "resample")].set_index("image_id")
        assert ranks["best"] == getattr(rows[metric], best)()
    up = {"ssim": "Up is better", "lpips": "Down is better"}[metric]
    for words in (f"best {metric.upper()}, ", f"median and worst {metric.upper()}", up, f">{metric.upper()}<"):
        assert words in page
    assert "PSNR [dB]" not in page  # no axis of the figures of cost
    assert f"Best {metric.upper()}: " in markdown(view)
    assert document_table(view).startswith(f"{metric.upper()}, means over 4 images")


def test_a_run_without_a_metric_of_images_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=2, size=32, metrics=["fd_prior"])
    assert "best PSNR" not in Path(build_report(str(folder))).read_text()
    with pytest.raises(RequestError, match=r"^metrics: run asks for no metric of images"):
        document_table(open_run(str(folder)))


@pytest.mark.parametrize("name", ["kuang2026_ffhq", "kuang2026_celebahq"])
def test_published_tables_are_complete(name: str) -> None:
    table = build(Published, read_mapping(PUBLISHED / f"{name}.yaml"), name)
    assert set(table.results) == {"gaussian_blur", "inpaint_random", "motion_blur", "sr4"}
    for solvers in table.results.values():
        assert set(solvers) == {"resample", "nullspace_resample"}
        for row in solvers.values():
            assert set(row) == {"psnr", "ssim", "lpips"}
            assert 28 < row["psnr"] < 34
            assert 0.79 <= row["ssim"] <= 0.94
            assert 0.1 < row["lpips"] < 0.28


def test_one_image_one_solver(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=1, size=32, solvers=("tv",), tasks=("sr4",))
    text = Path(build_report(str(folder))).read_text()
    assert "over 1 image<" in text
    assert "cost_calls" not in {path.stem for path in (folder / "figures").iterdir()}  # tv calls no network
    assert '<section id="comparisons">' not in text
    assert '<section id="failures">' not in text
    assert "at least two images" in text


def test_every_image_failed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=2, size=32, solvers=("tv",), tasks=("sr4",), edit=lambda row: None)
    text = Path(build_report(str(folder))).read_text()
    assert "the solver returned NaN" in text
    assert "| tv | 0 | 2 |" in markdown(open_run(str(folder)))


def test_missing_published_table_is_said_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", images=2, size=32, solvers=("tv",), tasks=("sr4",), published="nowhere.yaml")
    assert "nowhere.yaml" in Path(build_report(str(folder))).read_text()


def test_markdown_tables_are_rectangular(view: RunView) -> None:
    for block in markdown(view).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_command_rebuilds_the_report(run: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert command.main([str(run)]) == 0
    assert (run / "report.html").read_text() == page
    shown = capsys.readouterr().out
    assert "nullspace_resample" in shown
    assert f"units: {UNITS}" in shown


def test_the_command_fills_a_document(run: Path, view: RunView, tmp_path: Path) -> None:
    """One line per solver: its PSNR on every task, and the mean cost over the tasks."""
    document = tmp_path / "solvers.md"
    name = view.config.name
    document.write_text(f"before\n<!-- tables of {name} -->\nstale\n<!-- end of {name} -->\nafter\n")
    assert command.main([str(run), "--into", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["solver", *view.tasks, "denoiser calls", "s / image"]
    assert [line[0] for line in table[2:-4]] == view.solvers
    assert table[-4][:2] == ["task", "front"]
    assert [line[0] for line in table[-2:]] == view.tasks
    own = view.summary[view.summary["solver"] == view.solvers[0]]
    assert table[2][1].strip("* =").startswith(f"{own['psnr'].iloc[0]:.2f}")
    assert table[2][-2] == f"{own['denoiser_calls'].mean():.0f}"


def test_the_command_refuses_what_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    empty = write_run(tmp_path / "empty", images=1, size=32, solvers=("tv",), tasks=("sr4",))
    next((empty / "results").rglob("*.parquet")).unlink()
    assert command.main([str(empty)]) == 2
    message = capsys.readouterr().err
    assert "no results yet" in message
    assert len(message.splitlines()) == 1
    with pytest.raises(RequestError):
        build_report(str(empty))


def test_numbers_are_rounded_and_signed_for_people() -> None:
    assert number(-0.1234, 2) == "−0.12"
    assert number(0.5, 2, signed=True) == "+0.50"
    assert number(0.000123456, None) == "0.000123"
    assert (number(float("nan"), 2), number(None, 2)) == ("–", "–")

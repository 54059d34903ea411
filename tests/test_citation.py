"""What to cite: once each, as BibTeX, on the command line and in the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ipsolve.citation import Citation, bibliography, cited
from ipsolve.metrics import FEATURES, METRICS, SET_METRICS
from ipsolve.operators import OPERATORS
from ipsolve.report import open_run
from ipsolve.report.text import markdown
from ipsolve.runs.results import RunFolder
from ipsolve.solvers import SOLVERS
from ray_jobs import cli
from ray_jobs.evaluate import main
from tests.ray_jobs.small_runs import do, experiment, mapping

ENTRY = re.compile(r"@(?:article|inproceedings|misc)\{(\w+),\n(?:  \w+ = \{.+\},\n)+\}\n")
PARTS = [registry[name] for registry in (SOLVERS, OPERATORS, METRICS, SET_METRICS, FEATURES) for name in registry]


def test_every_citation_is_an_entry_and_a_line() -> None:
    everything = cited(PARTS)
    assert len(everything) > 30
    assert len(ENTRY.findall(bibliography(everything))) == len(everything)
    for each in everything:
        assert each.year is None or 1900 < each.year < 2100
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", each.arxiv)
        assert "\n" not in each.line
        assert each.title in each.line


def test_one_key_is_one_work() -> None:
    works = [part.citation for part in PARTS if getattr(part, "citation", None) is not None]
    assert len({work.key for work in works}) == len(set(works))


@pytest.mark.parametrize(
    ("authors", "short"),
    [
        ("Kuang, Rong", "Kuang 2026"),
        ("A, B and C, D", "A & C 2026"),
        ("A, B and C, D and E, F", "A et al. 2026"),
        ("A, B and others", "A et al. 2026"),
    ],
)
def test_a_citation_is_short_in_a_listing(authors: str, short: str) -> None:
    assert str(Citation("key", authors, "Title", 2026)) == short
    assert str(Citation("key", authors, "Title", 2026, arxiv="2601.00001")) == f"{short} (arXiv 2601.00001)"


def test_the_command_and_the_report_cite_what_a_run_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path), sort_keys=False))
    assert main([str(config), "--cite"]) == cli.COMPLETE
    printed = capsys.readouterr().out
    keys = ENTRY.findall(printed)
    assert keys == ["penrose1955inverse", "wang2023ddnm", "keys1981cubic", "wang2004ssim"]
    trial = experiment(tmp_path)
    do(trial)
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    assert ENTRY.findall(markdown(open_run(run))) == keys


def test_a_hugging_face_data_set_is_cited_by_its_address() -> None:
    from ipsolve.runs.citations import citations

    config = {"solvers": {}, "tasks": {}, "metrics": [], "data": {"source": "hf:org/faces:test"}}
    (data,) = citations(config)
    assert data.url == "https://huggingface.co/datasets/org/faces"
    assert len(ENTRY.findall(data.bibtex())) == 1

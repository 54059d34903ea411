"""Rebuild the tables and the report of a run: ``python -m ray_jobs.report RUN [--into FILE]``.

``python -m ray_jobs.report RUN RUN ...`` compares runs on the images that they share, with paired intervals, and writes
a page of it (``--into``, else ``comparison.html`` in the current directory).

With ``--into`` the Markdown tables of the run also replace what stands in FILE between the lines
``<!-- tables of NAME -->`` and ``<!-- end of NAME -->``, NAME being that of the run.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import yaml

from ipsolve import report
from ipsolve.posterior import report as posterior_report
from ipsolve.report.comparison import compare_runs, comparison_table, render_comparison
from ipsolve.report.view import read_text
from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import read_tables
from ray_jobs import cli
from ray_jobs.pipeline.folder.index import is_damage, rows_of, scan


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code: 0, or 2 where the request is wrong."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.report", description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, such as runs/demo, or its URI")
    what = "a Markdown file that shows the tables of the run; of several runs the page to write"
    parser.add_argument("--into", metavar="FILE", help=what)
    options = parser.parse_args(arguments)
    if len(options.runs) > 1:
        return cli.run_command(lambda: _compare(options.runs, options.into or "comparison.html"))
    return cli.run_command(lambda: _command(options.runs[0], options.into))


def _compare(locations: list[str], into: str) -> int:
    for location in locations:
        if is_posterior(RunFolder(location)):
            raise RequestError(location, "is a posterior run; allowed here: runs of ray_jobs.evaluate")
    view = compare_runs([_as_it_is(RunFolder(location)) for location in locations])
    Path(into).write_text(render_comparison(view), encoding="utf-8")
    print(f"{comparison_table(view)}\n\nreport: {into}")
    return cli.COMPLETE


def _command(location: str, into: str | None) -> int:
    run = RunFolder(location)
    try:
        rebuilt = rebuild(run)
    except (pa.ArrowException, OSError) as error:
        torn = scan(run, rows_of(run))[1] if is_damage(error) else []
        if not torn:
            raise
        raise _torn(run, torn) from None
    if into is not None:
        replace_tables(Path(into), rebuilt.name, rebuilt.document)
    print(f"{rebuilt.table}\n\nreport: {rebuilt.page}")
    return cli.COMPLETE


def _as_it_is(run: RunFolder) -> report.RunView:
    return report.open_run(run, read_tables(run) if run.exists("summary.csv") else None)


def _torn(run: RunFolder, files: list[str]) -> RequestError:
    first, more = run.address(files[0].removeprefix(f"{run.root}/")), len(files) - 1
    command = f"python -m ray_jobs.{'posterior' if is_posterior(run) else 'evaluate'}"
    return RequestError(
        f"{first} is torn{f', and {more} more files' * bool(more)}; {command} with the configuration of the run sets "
        "such files aside and does their images again"
    )


class Rebuilt(NamedTuple):
    """What was made of the files of a run: its name, a table for a terminal, tables for a document, and a page."""

    name: str
    table: str
    document: str
    page: str


def rebuild(run: RunFolder) -> Rebuilt:
    """Write the tables and the report of a run, whatever its kind, from its files alone."""
    if not is_posterior(run):
        view = report.open_run(run)
        page, table, document = report.write_report(view), report.console_table(view), report.document_table(view)
        return Rebuilt(view.config.name, table, document, page)
    posterior = posterior_report.open_run(run)
    page, table = posterior_report.write_report(posterior), posterior_report.console_table(posterior)
    return Rebuilt(posterior.config.name, table, posterior_report.document_tables(posterior), page)


def is_posterior(run: RunFolder) -> bool:
    """Return whether a folder was written by ray_jobs.posterior; one that is no run was not."""
    return run.exists("config.yaml") and "problems" in (yaml.safe_load(read_text(run, "config.yaml")) or {})


def replace_tables(file: Path, name: str, tables: str) -> None:
    """Put ``tables`` between the lines of ``file`` that name a run; RequestError if there are none."""
    first, last = f"<!-- tables of {name} -->", f"<!-- end of {name} -->"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError("--into", f"cannot read {str(file)!r}: {error.strerror}") from None
    marked = re.compile(f"(?<={re.escape(first)}\n).*(?={re.escape(last)})", re.DOTALL)
    if not marked.search(text):
        raise RequestError("--into", f"{file} does not have the lines {first!r} and {last!r}")
    file.write_text(marked.sub(lambda _: f"\n{tables}\n\n", text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

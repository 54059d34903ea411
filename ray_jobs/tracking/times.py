"""When the work of a run and of each of its cells began and ended, over all stretches and merged runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

Span = tuple[int, int]  # start and end, milliseconds since 1970


def milliseconds(time: object) -> int:
    """Return an ISO 8601 time as milliseconds since 1970."""
    return round(datetime.fromisoformat(str(time)).timestamp() * 1000)


def run_span(provenance: Mapping[str, Any]) -> Span:
    """Return when the first stretch of a run began and its last one ended; ``(0, 0)`` if its provenance is lost."""
    stretches = [_whole(stretch) for stretch in _stretches(provenance)]
    if not stretches and provenance.get("end"):
        stretches = [_whole({"start": provenance["end"]})]
    return _hull([*stretches, *cell_spans(provenance).values()])


def cell_spans(provenance: Mapping[str, Any]) -> dict[str, Span]:
    """Return when the first batch of each cell began and its last one ended, by its hash.

    A stretch that was killed left no times: all of it stands for the cells that it worked on. Where a later stretch
    has times of a cell, an earlier one without may have done none of it and says nothing.
    """
    known: dict[str, list[Span]] = {}
    vague: dict[str, list[Span]] = {}
    for stretch in _stretches(provenance):
        for cell in stretch.get("cells", {}):
            vague.setdefault(cell, []).append(_whole(stretch))
        for cell, (start, end) in stretch.get("times", {}).items():
            known.setdefault(cell, []).append((milliseconds(start), milliseconds(end)))
    return {cell: _hull(spans) for cell, spans in (vague | known).items()}


def solver_spans(provenance: Mapping[str, Any]) -> dict[tuple[str, str], Span]:
    """Return when each (task, solver) of the present configuration was worked on, over all its seeds."""
    spans, found = cell_spans(provenance), dict[tuple[str, str], list[Span]]()
    for cell, name in provenance.get("cells", {}).items():
        task, *rest = str(name).split(" / ")  # as a Cell prints itself; that of the references is one word
        if rest and cell in spans:
            found.setdefault((task, rest[0]), []).append(spans[cell])
    return {pair: _hull(each) for pair, each in found.items()}


def _stretches(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the stretches of work in a provenance, those of the runs that it was merged from in place of its own."""
    if "merged_from" in provenance:
        for origin in provenance["merged_from"].values():
            yield from _stretches(origin)
    elif provenance.get("start"):
        yield provenance
    for earlier in provenance.get("earlier", []):
        yield from _stretches(earlier)


def _whole(stretch: Mapping[str, Any]) -> Span:
    return milliseconds(stretch["start"]), milliseconds(stretch.get("end") or stretch["start"])


def _hull(spans: Iterable[Span]) -> Span:
    listed = list(spans)
    return min((start for start, _ in listed), default=0), max((end for _, end in listed), default=0)

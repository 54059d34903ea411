"""Measure speed, side by side.

    python -m benchmarks [NAME ...] [--quick]

Without names all are run. Each writes its figures as JSON and its table into docs/benchmarks.md as soon as it is done.
Exit codes: 0 all done or skipped, 1 one of them failed (the others are run all the same).
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks import record
from benchmarks.harness import ROOT, Options, Skipped, cores

# short ones first
BENCHMARKS = (
    *("projection", "frechet", "solvers", "engine", "tail", "computing", "volume", "scale"),
    *("resample", "ldm_vq4", "faults"),
)
RESAMPLE_TASKS = ("sr4", "box")
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, the figures mean nothing")
    parser.add_argument("--rounds", type=_positive, help="how often the arms take turns (default: as each needs)")
    parser.add_argument("--images", type=_positive, default=Options.images, help="images of resample (default: 8)")
    parser.add_argument(
        "--reference-images",
        type=_positive,
        default=Options.reference_images,
        help="of these, how many are also solved one by one on one thread (default: 2; minutes each)",
    )
    parser.add_argument("--tasks", nargs="+", choices=RESAMPLE_TASKS, default=[], help="of resample (default: both)")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="of faults (default: all)")
    parser.add_argument("--at-once", type=_positive, default=1, help="rounds of faults side by side (default: 1)")
    parser.add_argument("--results", type=Path, help="folder of the JSON files (default: benchmarks/results)")
    parser.add_argument("--page", type=Path, help="page of the tables (default: docs/benchmarks.md, none if --quick)")
    chosen = parser.parse_args(words)
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    options = Options(
        quick=chosen.quick,
        rounds=chosen.rounds,
        images=chosen.images,
        reference_images=chosen.reference_images,
        tasks=tuple(chosen.tasks),
        only=tuple(chosen.only),
        at_once=chosen.at_once,
    )
    folder = chosen.results or (RESULTS / "quick" if chosen.quick else RESULTS)
    page = chosen.page or (None if chosen.quick else PAGE)
    failed = []
    parts = [(name, options) for name in chosen.names or BENCHMARKS]
    if not options.tasks:  # hours each, and a table each
        tasks = [("resample", replace(options, tasks=(task,))) for task in RESAMPLE_TASKS]
        parts = [part for name, given in parts for part in (tasks if name == "resample" else [(name, given)])]
    for name, given in parts:
        try:
            run(name, given, folder, page, words)
        except Skipped as reason:
            print(f"{name}: skipped, {reason}", flush=True)
        except Exception:  # hours of figures are not lost to a fault in one of them
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, options: Options, folder: Path, page: Path | None, words: Sequence[str]) -> None:
    """Run one benchmark, print its table and write its files."""
    kept = record.environment()
    if kept["machine"]["load"] > cores() / 2 and not options.quick:
        print(f"note: the machine is busy (load {kept['machine']['load']}); expect noise", flush=True)
    module = import_module(f"benchmarks.{name}")
    print(f"{name}: {module.__doc__.splitlines()[0]}", flush=True)
    start = time.perf_counter()
    tables = module.rows(options)
    flags = [word for word in words if word not in BENCHMARKS]
    # one that takes hours gives a table whenever it has a better one
    for rows in tables if isinstance(tables, Iterator) else [tables]:
        kept |= {
            "name": "-".join([name, *{"resample": options.tasks, "faults": options.only}.get(name, ())]),
            "command": " ".join(["python -m benchmarks", name, *flags]),
            "quick": options.quick,
            "seconds": round(time.perf_counter() - start, 1),
            "rows": rows,
        }
        path = record.save(folder, kept)
        if page is not None:
            record.publish(page, kept)
        print(f"\n{record.table(rows)}\n\n{record.provenance(kept)}\n{path.name} written\n", flush=True)


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())

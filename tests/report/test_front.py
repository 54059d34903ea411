"""The front of quality against cost: decided by paired intervals, never by means alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ipsolve.report import build_report, document_table, markdown, open_run
from ipsolve.requests.errors import RequestError
from ipsolve.runs.front import costs_of, front
from ipsolve.runs.results import COUNTS
from ipsolve.runs.summary import Pairs
from tests.synthetic_run import write_run


def rows_of(solvers: dict[str, tuple[int, float, float]], images: int = 12, metric: str = "psnr") -> pd.DataFrame:
    """Rows of solvers (denoiser calls, mean offset, spread of their own) over images of very different difficulty."""
    draws = np.random.default_rng(0)
    difficulty = draws.normal(0, 5, images)
    table = []
    for name, (calls, offset, spread) in solvers.items():
        own = draws.normal(0, 1, images)
        for image, value in enumerate(25 + difficulty + offset + spread * (own - own.mean())):
            row = {"task": "sr4", "solver": name, "image_id": f"i{image}", "seed": 0, "sample": 0, metric: value}
            counts = dict.fromkeys(COUNTS, 0) | {"denoiser_calls": calls, "decoder_calls": 1}
            table.append(row | {"seconds": calls / 100} | counts)
    return pd.DataFrame(table)


def places(rows: pd.DataFrame, metric: str = "psnr", budget: float | None = None) -> dict[str, tuple[str, str | None]]:
    found = front(Pairs(rows, [metric]), costs_of(rows), "sr4", metric, budget)
    return {each.solver: (each.place, each.rival) for each in found}


# name: (denoiser calls, offset of the mean, spread of its own)
FIVE = {"cheap": (0, 0.0, 0.1), "good": (10, 1.0, 0.1), "waste": (20, 0.2, 0.1), "same": (50, 1.02, 0.5),
        "best": (100, 3.0, 0.1)}  # fmt: skip
ROWS = rows_of(FIVE)


def test_places_and_who_keeps_a_solver_off_the_front() -> None:
    assert places(ROWS) == {
        "cheap": ("front", None),
        "good": ("front", None),
        "waste": ("behind", "good"),
        "same": ("tied", "good"),
        "best": ("front", None),
    }


def test_pairs_tell_apart_what_intervals_of_means_cannot() -> None:
    """The spread over images is 5 dB, the gain of `good` 1 dB on every image."""
    own = ROWS[ROWS["solver"].isin(["cheap", "good"])]
    half_widths = own.groupby("solver")["psnr"].std() / np.sqrt(12) * 2
    assert half_widths.min() > 1
    assert places(own)["good"] == ("front", None)


def test_a_higher_mean_is_not_enough() -> None:
    rows = rows_of({"cheap": (1, 0.0, 2.0), "dear": (9, 0.3, 2.0)})
    assert rows.groupby("solver")["psnr"].mean().idxmax() == "dear"
    assert places(rows)["dear"] == ("tied", "cheap")


def test_of_equal_cost_and_not_told_apart_the_better_mean_stands_on_the_front() -> None:
    """Two that cost nothing, on two images: neither keeps the other off, or nothing at all would be on the front."""
    rows = rows_of({"one": (0, 0.0, 2.0), "other": (0, 0.3, 2.0), "dear": (9, 0.1, 2.0)}, images=2)
    assert places(rows) == {"other": ("front", None), "one": ("tied", "other"), "dear": ("tied", "other")}


def test_of_equal_cost_the_one_that_is_worse_is_behind() -> None:
    rows = rows_of({"one": (0, 0.0, 0.1), "other": (0, 1.0, 0.1)})
    assert places(rows) == {"other": ("front", None), "one": ("behind", "other")}


def test_of_distances_the_lower_is_better() -> None:
    rows = rows_of(FIVE, metric="lpips")
    assert places(rows, "lpips")["cheap"] == ("front", None)
    assert places(rows, "lpips")["best"] == ("behind", "cheap")


def test_a_budget_leaves_out_what_costs_more_and_moves_nothing_else() -> None:
    whole, cut = places(ROWS), places(ROWS, budget=21)  # 20 denoiser calls and one of the decoder
    assert cut == {name: whole[name] for name in ("cheap", "good", "waste")}


def test_costs_are_all_calls_together_or_one_kind_or_seconds() -> None:
    assert costs_of(ROWS)["sr4", "good"] == 11
    assert costs_of(ROWS, "denoiser_calls")["sr4", "good"] == 10
    assert costs_of(ROWS, "seconds")["sr4", "good"] == pytest.approx(0.1)
    with pytest.raises(RequestError, match="cost: 'time'; allowed: calls, denoiser_calls"):
        costs_of(ROWS, "time")


def test_of_two_at_the_same_cost_the_better_keeps_the_other_off() -> None:
    rows = rows_of({"a": (5, 0.0, 0.1), "b": (5, 1.0, 0.1)})
    assert places(rows) == {"b": ("front", None), "a": ("behind", "b")}


def test_every_rendering_of_a_run_shows_the_front(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "small", images=4, size=32, solvers=("tv", "ddnm", "nullspace_resample"))
    view = open_run(str(folder))
    standings = front(view.pairs, costs_of(view.rows), "sr4", "psnr")
    told = ", ".join(f"{each.solver} ({each.cost:.0f})" for each in standings if each.place == "front")
    assert told.startswith("tv (0)")
    page = Path(build_report(str(folder))).read_text()
    assert f'<td class="text">{told}</td>' in page
    for text in (markdown(view), document_table(view)):
        assert f"| sr4 | {told} |" in text
        assert "not corrected for their number" in text

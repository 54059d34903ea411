"""The tables of a run: the promised columns, the right unit of sampling, and nothing of what is not in the plan."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ipsolve.metrics import SET_METRICS
from ipsolve.metrics.distances import frechet_distance, kernel_distance, moments
from ipsolve.runs.results import RunFolder, feature_matrix
from ipsolve.runs.statistics import mean_interval
from ipsolve.runs.summary import (
    COMPARISON_COLUMNS,
    Pairs,
    compare,
    set_distances,
    summarise,
    summary_columns,
    write_summary,
)
from tests.synthetic_run import write_run


def table(values: dict[str, dict[tuple[str, int], float]]) -> pd.DataFrame:
    """Return result rows from ``{solver: {(image, seed): psnr}}``."""
    rows = [
        {"task": "sr4", "solver": solver, "image_id": image, "seed": seed, "psnr": psnr, "ssim": psnr / 40}
        for solver, cell in values.items()
        for (image, seed), psnr in cell.items()
    ]
    return pd.DataFrame(rows).assign(lpips=math.nan, consistency=1.0, denoiser_calls=10, seconds=0.5)


NONE = pd.DataFrame(columns=["image_id", "task", "solver", "seed", "stage", "error"])


def test_columns_are_the_contract() -> None:
    assert (
        *("task", "solver", "n", "failed", "psnr", "psnr_ci95", "ssim", "ssim_ci95", "lpips", "lpips_ci95"),
        *("fid", "fid_n", "kid", "fd_prior", "consistency", "denoiser_calls", "seconds_per_image"),
    ) == tuple(summary_columns())
    assert (
        *("task", "metric", "solver", "baseline", "difference", "ci95_low", "ci95_high", "p_value", "n"),
    ) == COMPARISON_COLUMNS


def test_seeds_of_an_image_are_averaged_before_the_interval() -> None:
    rows = table({"a": {("x", 0): 20.0, ("x", 1): 22.0, ("y", 0): 30.0, ("y", 1): 34.0, ("z", 0): 25.0}})
    line = summarise(rows, NONE, {}, [("sr4", "a")]).iloc[0]
    expected = mean_interval([21.0, 32.0, 25.0])
    assert (line["n"], line["psnr"], line["psnr_ci95"]) == (3, expected.value, expected.half_width)


def test_samples_of_an_image_are_averaged_before_its_seeds_and_images_are_the_unit() -> None:
    cells = {"a": {("x", 0): [20.0, 24.0, 22.0], ("x", 1): [30.0], ("y", 0): [28.0, 30.0]}, "b": {("x", 0): [19.0]}}
    cells["b"] |= {("x", 1): [24.0, 26.0], ("y", 0): [31.0, 29.0]}
    tables = [
        table({name: {key: values[sample] for key, values in cell.items() if sample < len(values)}
               for name, cell in cells.items()}).assign(sample=sample)
        for sample in range(3)
    ]  # fmt: skip
    rows = pd.concat(tables, ignore_index=True)
    line = summarise(rows, NONE, {}, [("sr4", "a")]).iloc[0]
    expected = mean_interval([(22.0 + 30.0) / 2, 29.0])
    assert (line["n"], line["psnr"], line["psnr_ci95"]) == (2, expected.value, expected.half_width)
    found = Pairs(rows).difference("sr4", "psnr", "a", "b")
    assert (found.n, found.difference) == (2, ((22 - 19 + 30 - 25) / 2 + 29 - 30) / 2)


def test_one_sample_changes_nothing() -> None:
    rows = table({name: {("x", 0): 20.0, ("x", 1): 22.0, ("y", 0): 31.0 + len(name)} for name in ("a", "bb")})
    cells, with_samples = [("sr4", "a"), ("sr4", "bb")], rows.assign(sample=0)
    pd.testing.assert_frame_equal(summarise(with_samples, NONE, {}, cells), summarise(rows, NONE, {}, cells))
    pd.testing.assert_frame_equal(compare(with_samples, "a", cells), compare(rows, "a", cells))


def test_absent_metrics_are_empty_and_an_empty_cell_is_left_out() -> None:
    rows = table({"a": {("x", 0): 20.0, ("y", 0): 21.0}})
    summary = summarise(rows, NONE, {}, [("sr4", "a"), ("sr4", "never_run")])
    assert list(summary["solver"]) == ["a"]
    assert summary[["lpips", "lpips_ci95", "fid", "fid_n", "kid", "fd_prior"]].isna().all(axis=None)
    assert compare(rows, None, [("sr4", "a")]).empty


def test_a_solver_that_failed_on_everything_keeps_its_row() -> None:
    failures = pd.DataFrame([["x", "sr4", "b", 0, "solve", "NaN"]], columns=NONE.columns)
    summary = summarise(table({"a": {("x", 0): 20.0}}), failures, {}, [("sr4", "a"), ("sr4", "b")])
    assert summary[["solver", "n", "failed"]].to_numpy().tolist() == [["a", 1, 0], ["b", 0, 1]]


def test_comparisons_use_the_image_and_seed_pairs_that_both_have() -> None:
    a = {("x", 0): 21.0, ("y", 0): 32.0, ("y", 1): 33.0, ("z", 0): 99.0}
    b = {("x", 0): 20.0, ("y", 0): 30.0, ("w", 0): -99.0}
    found = Pairs(table({"a": a, "b": b})).difference("sr4", "psnr", "a", "b")
    assert (found.n, found.difference) == (2, 1.5)


def test_comparisons_are_antisymmetric_and_skip_empty_metrics() -> None:
    rng = np.random.default_rng(0)
    cells = {name: {(f"i{i}", 0): float(rng.normal(25, 2)) for i in range(8)} for name in ("a", "b")}
    order = [("sr4", "a"), ("sr4", "b")]
    forward, backward = compare(table(cells), "b", order), compare(table(cells), "a", order)
    assert list(forward["metric"]) == ["psnr", "ssim"]
    np.testing.assert_allclose(forward["difference"], -backward["difference"])
    np.testing.assert_allclose(forward["ci95_low"], -backward["ci95_high"])
    np.testing.assert_allclose(forward["p_value"], backward["p_value"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("runs") / "demo",
        images=7,
        size=32,
        solvers=("pseudo_inverse", "resample"),
        tasks=("sr4",),
        seeds=(0, 1),
        inception=True,
        edit=lambda row: None if row["solver"] == "resample" and row["image_id"] == "portraits/00002" else row,
    )


def test_distances_of_a_run_are_those_of_its_feature_columns(run: Path) -> None:
    folder = RunFolder(run)
    found = set_distances(folder, [("sr4", "resample")])["sr4", "resample"]
    estimates, truths = folder.results(task="sr4", solver="resample"), folder.references()
    inception = [feature_matrix(part["inception_features"]) for part in (estimates, truths)]
    prior = [moments([feature_matrix(part["features"])]) for part in (estimates, truths)]
    assert found["fid_n"] == 12  # six images, two seeds
    assert found["kid"] == pytest.approx(kernel_distance(*inception), rel=1e-9)
    p, q = map(moments, ([inception[0]], [inception[1]]))
    assert p is not None
    assert q is not None
    assert found["fid"] == pytest.approx(frechet_distance(p, q), rel=1e-9)
    assert prior[0] is not None
    assert prior[1] is not None
    assert found["fd_prior"] == pytest.approx(frechet_distance(prior[0], prior[1]), rel=1e-9)


def test_a_distance_with_settings_takes_the_place_of_its_default(run: Path) -> None:
    folder, cell = RunFolder(run), ("sr4", "resample")
    settings = SET_METRICS["kid"](subsets=3, subset_size=4)
    usual, own = (set_distances(folder, [cell], None, sets)[cell] for sets in ((), (settings,)))
    inception = [feature_matrix(part["inception_features"]) for part in (folder.results(task="sr4", solver="resample"),
                                                                         folder.references())]  # fmt: skip
    assert own["kid"] == pytest.approx(kernel_distance(*inception, subsets=3, subset_size=4), rel=1e-9)
    assert own | {"kid": usual["kid"]} == usual


def test_the_files_hold_what_is_returned(run: Path) -> None:
    cells = [("sr4", "resample"), ("sr4", "pseudo_inverse")]
    tables = write_summary(run, cells, "resample")
    summary, comparisons = (pd.read_csv(run / name) for name in ("summary.csv", "comparisons.csv"))
    assert list(summary.columns) == summary_columns()
    assert tuple(comparisons.columns) == COMPARISON_COLUMNS
    assert list(summary["solver"]) == ["resample", "pseudo_inverse"]
    assert list(summary["n"]) == [6, 7]
    assert list(summary["failed"]) == [2, 0]
    np.testing.assert_allclose(summary["psnr"], tables.summary["psnr"], rtol=1e-12)
    assert list(comparisons["n"]) == [6, 6]


def test_only_images_of_the_plan_count(run: Path) -> None:
    planned = ["portraits/00000", "portraits/00001", "portraits/00002"]
    summary = write_summary(run, [("sr4", "resample")], None, planned).summary
    assert summary[["n", "failed", "fid_n"]].to_numpy().tolist() == [[2, 2, 4]]

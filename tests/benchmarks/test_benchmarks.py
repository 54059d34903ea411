"""That the benchmarks run, and what they write. No test looks at a speed."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import harness, record, scale, tail
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.timed_prior import TimedPrior
from ipsolve.priors import load_prior

pytestmark = pytest.mark.xdist_group("ray")

COLUMNS = {
    "projection": {"task", "method", "ms per image", "residual", "error"},
    "frechet": {"method", "statistics s", "peak MiB", "distance", "relative difference"},
    "solvers": {"solver", "batch", "images/s", "outside networks %", "settings"},
    "volume": {"images", "files", "batches/s", "driver MiB", "with tables"},
    "resample": {"task", "arm", "s per image", "times faster", "psnr", "network calls"},
    "ldm_vq4": {"precision", "compile", "batch", "guided steps/s"},
}


# test_faults.py does more than the quick run of faults would; the others that are left out start several Rays
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "volume")) for name in BENCHMARKS if name in COLUMNS],
)
def test_quick_run_writes_json_and_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert main([name, "--quick", "--results", str(tmp_path), "--page", str(page)]) == 0
    if name == "ldm_vq4" and not torch.cuda.is_available():
        assert "skipped, it needs a CUDA device" in capsys.readouterr().out
        assert not page.exists()
        return
    written = sorted(path.stem for path in tmp_path.glob("*.json"))
    assert written == (["resample-box", "resample-sr4"] if name == "resample" else [name])
    kept = json.loads((tmp_path / f"{written[0]}.json").read_text())
    assert set(kept) == {"name", "command", "quick", "seconds", "rows", "date", "machine", "versions"}
    assert kept["quick"]
    assert kept["rows"]
    assert all(COLUMNS[name] <= row.keys() for row in kept["rows"][-1:])
    numbers = [value for row in kept["rows"] for value in row.values() if isinstance(value, float)]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert record.table(kept["rows"]) in page.read_text()


def test_throughput_of_actors_is_counted_while_all_of_them_are_at_work() -> None:
    batch = scale.BATCH
    even = {"a": [(float(i), 1.0) for i in range(6)], "b": [(i + 0.5, 1.0) for i in range(6)]}
    assert scale.steady_rate(even) == pytest.approx(2 * batch)
    late = even | {"c": [(i + 2.0, 1.0) for i in range(3)]}  # comes late, ends early: outside of its time nobody counts
    assert scale.steady_rate(late) == pytest.approx(3 * batch)


def test_what_is_lost_at_the_end_is_told_from_what_no_order_can_use() -> None:
    even = {"a": [(float(i), 1.0) for i in range(6)], "b": [(i + 0.5, 1.0) for i in range(6)]}
    assert tail.busy(even) == pytest.approx(12 / 12.5)  # an actor that begins late has lost nothing by then
    assert tail.idle(even) == pytest.approx(0.5)
    uneven = {"a": [(0.0, 1.0), (1.0, 1.0)], "b": [(0.0, 1.0)]}
    assert tail.busy(uneven) == tail.best(uneven) == pytest.approx(0.75)  # three batches for two
    longest_last = {"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(0.0, 1.0)]}
    assert tail.busy(longest_last) == pytest.approx(4 / 6)
    assert tail.best(longest_last) == pytest.approx(1.0)


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["projections"])
    assert exit_.value.code == 2
    assert "no benchmark 'projections'; there are projection, " in capsys.readouterr().err


def test_a_table_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    for value in (1, 2):
        for name in ("a", "b"):
            kept = {**record.environment(), "name": name, "command": f"bench {name}", "seconds": 1.0}
            record.publish(page, kept | {"rows": [{"what": name, "value": value}]})
    text = page.read_text()
    assert text.startswith("# Page\n")
    assert [line for line in text.splitlines() if line.startswith("| a") or line.startswith("| b")] == [
        "| a | 2 |",
        "| b | 2 |",
    ]


def test_figures_are_readable() -> None:
    rows = [{"a": 1234.5, "b": 0.12345, "c": 0.0}, {"a": 1.5e-7, "c": None, "d": "x"}]
    assert record.table(rows).splitlines()[2:] == ["| 1234 | 0.123 | 0 |  |", "| 1.5e-07 |  |  | x |"]


def test_in_process_has_its_own_threads_and_memory() -> None:
    found = harness.in_process(harness.peak_memory_mib, 2)
    assert isinstance(found, float)
    with pytest.raises(RuntimeError, match="exit code 1"):
        harness.in_process(harness.peak_memory_mib, 2, unknown="argument")


def test_peak_memory_sees_what_was_freed() -> None:
    before = harness.peak_memory_mib()
    bytearray(int(before + 64) * 2**20)[:: 2**12].count(1)
    assert harness.peak_memory_mib() > before + 32


def test_timed_prior_changes_no_number_and_sees_the_backward_pass() -> None:
    prior = load_prior({"prior": "mixture", "image_shape": [3, 8, 8]})
    timed = TimedPrior(prior)
    level = prior.schedule.levels(10)[4]
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradient(of: object) -> torch.Tensor:
        point = x_t.clone().requires_grad_()
        forward = of.denoise(point, level)  # type: ignore[attr-defined]
        forwards.append(timed.watch.seconds)
        return torch.autograd.grad(forward.square().sum(), point)[0]

    forwards: list[float] = []
    expected = gradient(prior)
    assert torch.equal(gradient(timed), expected)
    assert 0 == forwards[0] < forwards[1] < timed.watch.seconds

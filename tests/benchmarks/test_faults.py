"""The fault matrix, each fault once: whatever goes wrong, every image has its row, once, with the same numbers.

``python -m benchmarks faults`` plays each of them twenty times, at other moments.
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.faults import CASES, play_round, tabulate
from benchmarks.faults.scene import Scene, check, require
from benchmarks.harness import Row, in_process

pytestmark = [pytest.mark.xdist_group("ray, long"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def table() -> dict[str, Row]:
    played = in_process(play_round, 1, names=list(CASES), seed=0)  # of its own: it talks to another Ray than the tests
    return {row["fault"]: row for row in tabulate(played)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_image_has_its_row_once_whatever_goes_wrong(table: dict[str, Row], name: str) -> None:
    row = table[name]
    if row["failures"].startswith("skipped"):
        pytest.skip(row["failures"])
    assert row["played"] == 1
    assert row["held"] == 1, row["failures"]


def test_the_table_counts_what_held_what_did_not_and_what_cannot_be_done_here() -> None:
    def play(name: str, seed: int, **changes: str) -> Row:
        return {"fault": name, "seed": seed, "skipped": "", "failure": "", "seconds": 3.0 + seed, **changes}

    played = [
        *(play("poison", seed) for seed in range(3)),
        play("poison", 3, failure="seed 3: lost"),
        play("disk_full", 0, skipped="skipped: no root"),
    ]
    poison, disk = tabulate(played)
    assert {key: poison[key] for key in ("fault", "played", "held", "median s", "failures")} == {
        "fault": "poison", "played": 4, "held": 3, "median s": 4.5, "failures": "seed 3: lost"
    }  # fmt: skip
    assert (disk["played"], disk["held"], disk["median s"], disk["failures"]) == (0, 0, None, "skipped: no root")


class NoCluster:
    """Nobody outlives its driver where there is none."""

    def at_work(self) -> list[object]:
        return []


def test_the_check_itself_can_fail(tmp_path: Path) -> None:
    # what every scene ends with is worth nothing if it passes over a lost row, another number or a double
    scene = Scene(tmp_path, random.Random(0), NoCluster())  # type: ignore[arg-type]
    trial = scene.experiment()
    expected = scene.undisturbed(trial)
    run = scene.run
    source = scene.alone(trial)
    for path in source.files("results"):
        name = path.removeprefix(f"{source.root}/")
        run.write(run.path(name), Path(path).read_bytes())
    check(scene, trial, expected)
    key = next(iter(expected))
    with pytest.raises(AssertionError, match="other numbers than undisturbed"):
        check(scene, trial, {**expected, key: expected[key] + 1})
    with pytest.raises(AssertionError, match="must be"):
        check(scene, trial, expected, [(key[3], "read")])
    first = Path(run.files("results")[0])
    content = first.read_bytes()
    first.with_name(first.name.replace(".parquet", "-again.parquet")).write_bytes(content)
    with pytest.raises(AssertionError, match="twice"):
        check(scene, trial, expected)
    first.unlink()
    table = pq.read_table(first.with_name(first.name.replace(".parquet", "-again.parquet")))
    pq.write_table(table.slice(1), first)
    first.with_name(first.name.replace(".parquet", "-again.parquet")).unlink()
    with pytest.raises(AssertionError, match="neither a result nor a failure"):
        check(scene, trial, expected)
    with pytest.raises(AssertionError, match="so be it"):
        require(False, "so be it")

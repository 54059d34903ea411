"""The fault matrix, each fault once: whatever goes wrong, every image has its row, once, with the same numbers.

``python -m benchmarks faults`` plays each of them twenty times, at other moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import CASES, Stage, stage
from benchmarks.faults.scene import check, require
from benchmarks.harness import Skipped

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("faults")) as ready:
        yield ready


@pytest.mark.parametrize("name", CASES)
def test_every_image_has_its_row_once_whatever_goes_wrong(ready: Stage, name: str) -> None:
    try:
        ready.play(name, seed=0)
    except Skipped as reason:
        pytest.skip(str(reason))


def test_the_check_itself_can_fail(ready: Stage) -> None:
    # what every scene ends with is worth nothing if it passes over a lost row, another number or a double
    import random

    import pyarrow.parquet as pq

    from benchmarks.faults.scene import Scene

    folder = ready.folder / "check"
    folder.mkdir()
    scene = Scene(folder, random.Random(0), ready.cluster)
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

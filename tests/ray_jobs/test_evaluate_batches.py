"""One batch: results that belong to the image alone, and faults that stay with the image that caused them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.faults.solvers import BrokenDevice, NotANumber, OutOfMemory, Raises
from ipsolve.conventions import from_uint8
from ipsolve.evaluation.batch import Outcome
from ipsolve.evaluation.isolation import Fault, isolate
from ipsolve.metrics import METRICS
from ipsolve.requests.errors import RequestError
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import COUNTS, RunFolder, reference_schema, result_schema
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.pipeline.stages import worker as worker_module
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import MAX_DEATHS, Worker
from ray_jobs.pipeline.stages.workload import Workload
from tests.ray_jobs.small_runs import experiment

DETERMINED = ("psnr", "ssim", "consistency", *COUNTS)
SOLVERS = {
    "pinv": {"solver": "pseudo_inverse"},
    "tv": {"solver": "tv", "num_steps": 5},
    "ddnm": {"solver": "ddnm", "num_steps": 4},
    "dps": {"solver": "latent_dps", "num_steps": 4},
}


def evaluate(trial: Experiment, solver: str, indices: list[int]) -> Outcome:
    cell = next(cell for cell in trial.cells if cell.solver == solver)
    return Workload.of(trial).start("cpu").evaluate(load(trial.source, cell, indices, trial.image_size))


def numbers(*outcomes: Outcome) -> dict[str, list[float]]:
    rows = [row for outcome in outcomes for row in outcome.rows.to_pylist()]
    return {row["image_id"]: [row[name] for name in DETERMINED] for row in rows}


# float64: rounding alone. float32: rounding that depends on the batch size, grown over the steps of a solver
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-6), ("float32", 1e-3)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(tmp_path: Path, solver: str, precision: str, tolerance: float) -> None:
    trial = experiment(tmp_path, solvers=SOLVERS, compute={"precision": precision})
    together = numbers(evaluate(trial, solver, list(range(8))))
    for others in (
        numbers(*(evaluate(trial, solver, [index]) for index in range(8))),
        numbers(evaluate(trial, solver, [6, 3, 7]), evaluate(trial, solver, [5, 4, 2, 1, 0])),
    ):
        assert others.keys() == together.keys()
        for name, values in together.items():
            assert others[name] == pytest.approx(values, abs=tolerance)


def test_all_solvers_see_the_same_measurement(tmp_path: Path) -> None:
    trial = experiment(tmp_path, solvers=SOLVERS)
    seen = [evaluate(trial, solver, [0, 1]).rows["measurement"].to_pylist() for solver in SOLVERS]
    assert all(each == seen[0] for each in seen)


def test_another_seed_is_another_measurement(tmp_path: Path) -> None:
    trial = experiment(tmp_path, seed=[0, 1])
    started = Workload.of(trial).start("cpu")
    batches = [load(trial.source, cell, [0], trial.image_size) for cell in trial.cells if cell.solver == "pinv"]
    rows = [started.evaluate(batch).rows for batch in batches]
    assert [row["seed"].to_pylist() for row in rows] == [[0], [1]]
    assert rows[0]["measurement"] != rows[1]["measurement"]


def test_rows_and_references_follow_the_schema(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    reference = load(trial.source, trial.reference_cell, [0], trial.image_size)
    assert Workload.of(trial).start("cpu").evaluate(reference).rows.schema == reference_schema()
    row = evaluate(trial, "ddnm", [0]).rows
    assert row.schema == result_schema()
    assert row["denoiser_calls"].to_pylist() == [4]
    assert row["seconds"][0].as_py() > 0


def test_a_nan_costs_its_own_image_only(tmp_path: Path) -> None:
    trial = experiment(tmp_path, {"nan": NotANumber()})
    expected = numbers(evaluate(trial, "pinv", list(range(8))))
    outcome = evaluate(trial, "nan", list(range(8)))
    assert 0 < len(outcome.failures) < 8
    assert {failure.stage for failure in outcome.failures} == {"solve"}
    assert "NaN or Inf" in outcome.failures[0].error
    good = numbers(outcome)
    assert good.keys() | {failure.image_id for failure in outcome.failures} == expected.keys()
    assert all(good[name] == pytest.approx(expected[name], abs=1e-9) for name in good)


def test_an_exception_is_narrowed_down_to_its_image(tmp_path: Path) -> None:
    trial = experiment(tmp_path, {"nan": NotANumber(), "raises": Raises()})
    bright = {failure.image_id for failure in evaluate(trial, "nan", list(range(8))).failures}
    outcome = evaluate(trial, "raises", list(range(8)))
    assert {failure.image_id for failure in outcome.failures} == bright
    assert {failure.error for failure in outcome.failures} == {"ZeroDivisionError: this image is too bright"}
    assert len(outcome.rows) == 8 - len(bright)


def test_a_batch_too_large_for_the_memory_is_split_and_the_reason_kept(tmp_path: Path) -> None:
    trial = experiment(tmp_path, {"oom": OutOfMemory(room=3)})
    outcome = evaluate(trial, "oom", list(range(8)))
    assert len(outcome.rows) == 8
    assert outcome.failures == []
    assert outcome.notes[0].startswith("a batch of 8 was halved: OutOfMemoryError: CUDA out of memory")


def test_a_device_too_full_for_the_images_themselves_gets_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return from_uint8(images)

    trial = experiment(tmp_path)
    expected = numbers(evaluate(trial, "pinv", list(range(8))))
    monkeypatch.setattr("ipsolve.evaluation.evaluator.from_uint8", full)
    outcome = evaluate(trial, "pinv", list(range(8)))
    assert outcome.failures == []
    assert numbers(outcome) == pytest.approx(expected, abs=1e-9)
    assert outcome.notes[0].startswith("a batch of 8 was halved: OutOfMemoryError: CUDA out of memory")


def test_a_score_that_fails_is_a_failure_of_stage_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise RequestError("no score today")

    trial = experiment(tmp_path)
    monkeypatch.setattr(METRICS["ssim"], "__call__", refuse)
    outcome = evaluate(trial, "pinv", [0, 1])
    assert [(failure.stage, failure.error) for failure in outcome.failures] == [
        ("score", "RequestError: no score today")
    ] * 2
    assert len(outcome.rows) == 0


def test_a_batch_is_done_once_whatever_died(tmp_path: Path) -> None:
    """A worker that comes to a batch again takes over what is saved and does the rest alone."""
    trial = experiment(tmp_path)
    worker = Worker(Workload.of(trial))
    cell = trial.cells[0]
    batch = load(trial.source, cell, [0, 1, 2], trial.image_size)
    report = worker.process(batch)
    assert report.pop("seconds") >= 0
    assert {name: moments.n for name, moments in report.pop("scores").items()} == dict.fromkeys(
        ("consistency", "psnr", "ssim"), 3
    )
    assert report == {"cell": cell.hash, "images": 3, "done": 3, "failed": 0, "notes": []}
    run = RunFolder(trial.config.run_location)
    first = run.results(["image_id", "seconds"])
    assert worker.process(batch)["done"] == 3
    assert run.results(["image_id", "seconds"]) == first
    tidy(RunIndex(run, trial.all_cells), trial.all_cells, set(trial.image_ids))
    assert run.files("attempts", suffix="") == []


def test_a_batch_that_killed_its_process_is_repeated_image_by_image(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    worker, cell = Worker(Workload.of(trial)), trial.cells[0]
    ids = trial.source.image_ids([0, 1, 2])
    worker.storage.begin(cell, ids)  # what a death leaves behind: an attempt that never ended
    for _ in range(MAX_DEATHS):
        worker.storage.begin(cell, ids[1:2])
    report = worker.process(load(trial.source, cell, [0, 1, 2], trial.image_size))
    assert (report["done"], report["failed"]) == (2, 1)
    run = RunFolder(trial.config.run_location)
    failure = run.failures().to_pylist()
    assert [(row["image_id"], row["stage"], row["error"]) for row in failure] == [
        (ids[1], "crash", "its process died 3 times")
    ]
    assert sorted(run.results(["image_id"])["image_id"].to_pylist()) == sorted([ids[0], ids[2]])


def test_a_broken_device_ends_the_process_and_its_reason_is_recorded(tmp_path: Path) -> None:
    # what CUDA answers from then on to every call of a process: another image would be charged with it
    trial = experiment(tmp_path, {"faulty": BrokenDevice()}, compute={"batch_size": 5})
    folder = trial.config.run_location
    cell = next(cell for cell in trial.cells if cell.solver == "faulty")
    batch = load(trial.source, cell, list(range(5)), trial.image_size)
    processes = multiprocessing.get_context("fork")  # a real death each time
    deaths = 0
    while True:  # as Ray does: another process, the same batch
        actor = processes.Process(target=lambda: Worker(Workload.of(trial)).process(batch))
        actor.start()
        actor.join()
        if actor.exitcode == 0:
            break
        deaths += 1
        assert actor.exitcode == 1
        assert deaths <= 1 + 5 * MAX_DEATHS
    failures = RunFolder(folder).failures().to_pylist()
    results = RunFolder(folder).results(["image_id"], solver="faulty")["image_id"].to_pylist()
    assert sorted([*results, *(row["image_id"] for row in failures)]) == sorted(trial.image_ids)
    assert results
    assert failures
    reason = "its process died 3 times: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert {(row["stage"], row["error"]) for row in failures} == {("crash", reason)}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_want_of_memory_halves_a_batch_whoever_lacks_it(error: Exception) -> None:
    def work(rows: list[int]) -> list[int | Fault]:
        if len(rows) > 2:
            raise error
        return list(rows)

    notes: list[str] = []
    assert isolate(work, list(range(8)), notes) == list(range(8))
    assert len(notes) == 3


def test_an_unreadable_image_costs_itself_only(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"this is a text")
    trial = experiment(tmp_path, data={"source": str(folder)})
    worker, cell = Worker(Workload.of(trial)), trial.cells[0]
    report = worker.process(load(trial.source, cell, [0, 1], trial.image_size))
    assert (report["done"], report["failed"]) == (1, 1)
    failures = RunFolder(trial.config.run_location).failures().to_pylist()
    assert [(row["image_id"], row["stage"]) for row in failures] == [("bad.png", "read")]


def test_an_actor_that_does_not_see_the_folder_of_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "PAUSES", (0.0, 0.0))
    trial = experiment(tmp_path)
    run = RunFolder(trial.config.run_location)
    with pytest.raises(RuntimeError, match="does not see what the driver writes to"):
        Worker(Workload.of(trial), b"name: small")
    run.write(run.path("config.yaml"), b"name: of an earlier run on the disk of this node")
    with pytest.raises(RuntimeError, match="does not see"):
        Worker(Workload.of(trial), b"name: small")
    run.write(run.path("config.yaml"), b"name: small")
    assert Worker(Workload.of(trial), b"name: small").notes == []

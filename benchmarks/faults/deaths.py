"""Faults that end processes: actors, nodes, drivers, jobs, and batches that kill whoever touches them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.scene import NUM_IMAGES, Scene, check, kill, require, require_note, wait_until
from benchmarks.faults.solvers import BrokenDevice, NotANumber, Poison, Slow
from benchmarks.faults.sources import Deadly
from benchmarks.harness import ROOT
from ray_jobs import cli


def actor_killed_in_a_batch(scene: Scene) -> None:
    """kill -9 of an actor in the middle of a batch: only that batch is done again."""
    calls = scene.calls()
    trial = scene.experiment(Slow(seconds=0.2, calls=str(calls)), compute=scene.compute(num_actors=2))
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))
    wanted = scene.rng.randint(2, NUM_IMAGES - 2)

    def disturb() -> None:
        wait_until(lambda: len(list(calls.iterdir())) >= wanted, 120, "no batch was begun")
        time.sleep(scene.rng.uniform(0, 0.3))
        last = max(calls.iterdir(), key=lambda path: int(path.name.split("-")[1]))
        kill(psutil.Process(int(last.name.split("-")[0])))

    thread = scene.meanwhile(disturb)
    scene.evaluate(trial)
    thread.join()
    check(scene, trial, expected)
    # repeated image by image: the batch in hand, and the one that waited in the queue of the same actor
    require(len(list(calls.iterdir())) <= NUM_IMAGES + 4, "more than the killed batches was done again")
    require_note(scene, "solver processes ended 1 times before their work did")


def actor_killed_while_it_loads(scene: Scene) -> None:
    """kill -9 of an actor at any moment from its first breath: another takes its place."""
    trial = scene.experiment(Slow(seconds=0.1), compute=scene.compute(num_actors=2))
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))

    early = list[bool]()

    def disturb() -> None:
        wait_until(scene.cluster.actors, 120, "no actor was started")
        time.sleep(scene.rng.uniform(0, 3))
        for process in scene.cluster.actors()[:1]:
            kill(process)
            early.append(len(scene.run.files("results")) < NUM_IMAGES // 2)

    thread = scene.meanwhile(disturb)
    scene.evaluate(trial)
    thread.join()
    check(scene, trial, expected)
    if any(early):  # at the end of its work nobody takes its place
        require_note(scene, "solver processes ended 1 times before their work did")


def node_removed(scene: Scene) -> None:
    """A node vanishes with its actors, as a spot instance does: what it had in hand is done elsewhere."""
    calls = scene.calls()
    trial = scene.experiment(Slow(seconds=0.3, calls=str(calls)), compute=scene.compute(num_actors=4))
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))
    node = scene.cluster.add_worker(num_cpus=2)
    wanted, lost = scene.rng.randint(1, NUM_IMAGES - 4), list[psutil.Process]()

    def disturb() -> None:
        wait_until(lambda: len(list(calls.iterdir())) >= wanted, 120, "no batch was begun")
        lost.extend(scene.cluster.actors(node))
        scene.cluster.remove(node)

    thread = scene.meanwhile(disturb)
    try:
        scene.evaluate(trial)
    finally:
        thread.join()
    require(bool(lost), "no actor was on the node")
    check(scene, trial, expected)
    # Ray takes seconds to see that a node is gone; where it had nothing in hand the run may be complete before
    if len(list(calls.iterdir())) > NUM_IMAGES:
        require_note(scene, "the process died on")


def driver_killed(scene: Scene) -> None:
    """kill -9 of the driver: its actors end, and the same command goes on from the files."""
    slow = _slow(scene)
    driver = scene.driver(slow)
    calls, wanted = scene.calls(), scene.rng.randint(1, NUM_IMAGES - 2)
    wait_until(lambda: len(list(calls.iterdir())) >= wanted or driver.poll() is not None, 180, "no batch was begun")
    time.sleep(scene.rng.uniform(0, 0.5))
    require(driver.poll() is None, f"the driver ended by itself: {(scene.folder / 'driver.log').read_text()[-500:]}")
    driver.kill()
    driver.wait()
    _goes_on(scene, slow, "running", "without a word, as it does when it is killed")


def job_stopped(scene: Scene) -> None:
    """``ray job stop``: the status says so, and the same command goes on from the files."""
    slow = _slow(scene)
    ray = [str(Path(sys.executable).with_name("ray")), "job"]
    place = [f"--address={scene.cluster.jobs}"]
    name = f"run-{time.monotonic_ns()}"
    submit = [*ray, "submit", *place, f"--submission-id={name}", "--no-wait", "--", *scene.command(slow)]
    done = subprocess.run(submit, cwd=ROOT, capture_output=True, text=True, timeout=180)
    require(done.returncode == 0, f"the job was not taken: {done.stderr[-500:]}")
    calls, wanted = scene.calls(), scene.rng.randint(1, NUM_IMAGES - 2)
    wait_until(lambda: len(list(calls.iterdir())) >= wanted, 180, "no batch was begun")
    stop = [*ray, "stop", *place, name]
    done = subprocess.run(stop, cwd=ROOT, capture_output=True, text=True, timeout=180)
    require(done.returncode == 0, f"the job was not stopped: {done.stderr[-500:]}")
    _goes_on(scene, slow, "interrupted", "")


def poison(scene: Scene) -> None:
    """An image that kills its process every time becomes a failure, the others of its batch have their results."""
    data, bright = _one_bright_image(scene)
    trial = scene.experiment(Poison(), data=data)
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0), data=data))
    scene.evaluate(trial, cli.SOME_IMAGES_FAILED)
    check(scene, trial, expected, [(bright, "crash")])
    notes = scene.run.read_json("status.json")["notes"]
    require(any("repeated image by image" in note for note in notes), f"nobody said what happened: {notes}")


def poison_file(scene: Scene) -> None:
    """An image that kills its reader every time becomes a failure of every solver, the others have their results."""
    trial = scene.experiment(Slow(seconds=0))
    deadly = scene.rng.randrange(NUM_IMAGES)
    expected = scene.undisturbed(trial)
    trial = dataclasses.replace(trial, source=Deadly(trial.source, deadly))
    scene.evaluate(trial, cli.SOME_IMAGES_FAILED)
    check(scene, trial, expected, [(trial.image_ids[deadly], "read")])
    errors = {row["error"] for row in scene.run.failures().to_pylist()}
    require(errors == {"the process that read it died 3 times"}, f"the reason is lost: {errors}")


def broken_device(scene: Scene) -> None:
    """A CUDA error that outlives its call costs the image that causes it, not all that follow it."""
    data, bright = _one_bright_image(scene)
    trial = scene.experiment(BrokenDevice(), data=data)
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0), data=data))
    scene.evaluate(trial, cli.SOME_IMAGES_FAILED)
    check(scene, trial, expected, [(bright, "crash")])
    errors = {row["error"] for row in scene.run.failures().to_pylist()}
    require(all("CUDA error: an illegal memory access" in error for error in errors), f"the reason is lost: {errors}")


def _one_bright_image(scene: Scene) -> tuple[dict[str, Any], str]:
    """Return a stretch of four images of which one is bright, which is what the faulty solvers go by, and its id."""
    start = scene.rng.randrange(1000)
    stretch = scene.experiment(NotANumber(), data={"source": "portraits:test", "offset": start, "limit": 120})
    bright = {row["image_id"] for row in scene.alone(stretch).failures().to_pylist()}
    for first in range(117):
        names = stretch.image_ids[first : first + 4]
        if len(bright.intersection(names)) == 1:
            return {"source": "portraits:test", "offset": start + first, "limit": 4}, *bright.intersection(names)
    raise AssertionError("no bright image among 120")


def _slow(scene: Scene) -> Slow:
    return Slow(seconds=0.2, calls=str(scene.calls()))


def _goes_on(scene: Scene, slow: Slow, state: str, words: str) -> None:
    """Run the same command again, and see that only what was missing is computed."""
    wait_until(lambda: not scene.cluster.at_work(), 60, "actors or readers outlive their driver")
    require(scene.run.read_json("status.json")["state"] == state, f"the status is not {state!r}")
    solved = len(scene.run.results(["image_id"], solver="faulty"))
    before = len(list(scene.calls().iterdir()))
    trial = scene.experiment(slow)
    scene.evaluate(trial)
    again = len(list(scene.calls().iterdir())) - before
    require(again == NUM_IMAGES - solved, f"{again} images were solved again, {NUM_IMAGES - solved} were missing")
    require(words in scene.said, f"nobody said {words!r}")
    check(scene, trial, scene.undisturbed(scene.experiment(Slow(seconds=0))))

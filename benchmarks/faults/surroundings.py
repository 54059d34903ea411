"""Faults of what a run stands on: the disk, the files, the images, the tracking server, a second driver."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.scene import NUM_IMAGES, Scene, check, numbers, require, wait_until
from benchmarks.faults.solvers import NotANumber, OutOfMemory, Raises, Slow
from benchmarks.faults.tracking import Proxy
from benchmarks.harness import ROOT, Skipped
from ipsolve.runs.experiment import Experiment
from ray_jobs import cli, track


def disk_full(scene: Scene) -> None:
    """The result disk fills up: the run breaks off and says so; with room again the same command goes on."""
    folder = Path(scene.run.root)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        raise Skipped("a small disk cannot be mounted without being root")
    try:
        size = scene.rng.randrange(32, 120)
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
        trial = scene.experiment(Slow(seconds=0.05))
        scene.evaluate(trial, cli.FAILED)
        require("No space left on device" in scene.said, f"nobody said that the disk is full: {scene.said[-500:]}")
        before = numbers(scene.run)
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        scene.evaluate(trial)
        require(before.items() <= numbers(scene.run).items(), "what had been solved was lost")
        check(scene, trial, scene.undisturbed(scene.experiment(Slow(seconds=0))))
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def torn_file(scene: Scene) -> None:
    """A file of results is cut off, emptied or overwritten: its images are done again, and it is said."""
    calls = scene.calls()
    trial = scene.experiment(Slow(seconds=0, calls=str(calls)))
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))
    scene.evaluate(trial)
    before = len(list(calls.iterdir()))
    path = Path(scene.rng.choice(scene.run.files("results")))
    content, lost = path.read_bytes(), NUM_IMAGES if "faulty" in str(path) else 0
    cut = scene.rng.randrange(len(content))
    path.write_bytes(scene.rng.choice([content[:cut], b"", content[:cut] + os.urandom(len(content) - cut)[:-1] + b"?"]))
    scene.evaluate(trial)
    require(len(list(calls.iterdir())) - before == lost, "not the images of the torn file were done again")
    require("torn file" in scene.said, "nobody said that a file was torn")
    check(scene, trial, expected)


def bad_images(scene: Scene) -> None:
    """Unreadable images of every kind become failures; unusual ones that can be read have their results."""
    folder = scene.folder / "images"
    folder.mkdir()
    pixels = np.asarray(scene.experiment().source.load(scene.rng.randrange(1000), 64))
    good = Image.fromarray(pixels)
    png = io.BytesIO()
    good.save(png, "PNG")
    whole = png.getvalue()
    for name, mode in {"rgb": "RGB", "cmyk": "CMYK", "palette": "P", "grey": "L", "alpha": "RGBA", "bits": "1"}.items():
        good.convert(mode).save(folder / f"good-{name}.{'jpg' if mode == 'CMYK' else 'png'}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "good-sixteen.png")
    middle = len(whole) // 2
    bad = {
        "corrupt": whole[:middle] + bytes(64) + whole[middle + 64 :],
        "truncated": whole[: scene.rng.randrange(40, middle)],
        "zero-bytes": b"",
        "a-text": b"this is a text",
        "float": _tiff(pixels),
        "bomb": _bomb(),
    }
    for name, content in bad.items():
        (folder / f"bad-{name}.png").write_bytes(content)
    trial = scene.experiment(Slow(seconds=0), data={"source": str(folder)})
    expected = scene.undisturbed(trial)
    scene.evaluate(trial, cli.SOME_IMAGES_FAILED)
    check(scene, trial, expected, [(f"bad-{name}.png", "read") for name in bad])
    require(all(row["error"] for row in scene.run.failures().to_pylist()), "a failure has no reason")


def _tiff(pixels: np.ndarray) -> bytes:
    """Return an image of floating-point numbers, in a format that is not read here."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.float32)).save(file, "TIFF")
    return file.getvalue()


def _bomb() -> bytes:
    """Return a PNG of a few bytes that says it has ten thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def nan_or_inf(scene: Scene) -> None:
    """An answer that is not finite becomes a failure with the number of such values."""
    value = scene.rng.choice(["nan", "inf", "-inf"])
    _fails_where_bright(scene, scene.experiment(NotANumber(value=value)), "values that are NaN or Inf")


def solver_raises(scene: Scene) -> None:
    """An exception of a solver costs the image that causes it."""
    _fails_where_bright(scene, scene.experiment(Raises()), "ZeroDivisionError: this image is too bright")


def _fails_where_bright(scene: Scene, trial: Experiment, words: str) -> None:
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))
    bright = [row["image_id"] for row in scene.alone(scene.experiment(NotANumber())).failures().to_pylist()]
    require(bool(bright), "no image is bright")
    scene.evaluate(trial, cli.SOME_IMAGES_FAILED)
    check(scene, trial, expected, [(name, "solve") for name in bright])
    errors = [row["error"] for row in scene.run.failures().to_pylist()]
    require(all(words in error for error in errors), f"the reason is lost: {errors}")


def out_of_memory(scene: Scene) -> None:
    """Too large a batch is halved until it fits, and the reason is recorded."""
    room, size = scene.rng.randint(1, 3), scene.rng.randint(4, NUM_IMAGES)
    trial = scene.experiment(OutOfMemory(room=room), compute=scene.compute(batch_size=size))
    expected = scene.undisturbed(scene.experiment(Slow(seconds=0)))
    scene.evaluate(trial)
    check(scene, trial, expected)
    notes = scene.run.read_json("status.json")["notes"]
    words = f"a batch of {size} was halved: OutOfMemoryError: CUDA out of memory"
    require(any(words in note for note in notes), f"nobody recorded why the batch was halved: {notes}")


def tracking_down_all_the_time(scene: Scene) -> None:
    """No tracking server: the run is complete, and says how to send it later; then it can be sent."""
    _tracked(scene, lambda proxy: proxy.cut())


def tracking_down_in_the_middle(scene: Scene) -> None:
    """The tracking server is lost while the run is being sent: sending again leaves nothing out and nothing twice."""
    _tracked(scene, lambda proxy: proxy.cut(after=scene.rng.randint(2, 20)))


def _tracked(scene: Scene, cut: Callable[[Proxy], None]) -> None:
    server = scene.ready["tracking"]
    with Proxy(server.port) as proxy:
        name = f"faults-{scene.folder.name}"
        trial = scene.experiment(Slow(seconds=0), tracking={"uri": proxy.uri, "experiment": name})
        cut(proxy)
        scene.evaluate(trial)
        check(scene, trial, scene.undisturbed(scene.experiment(Slow(seconds=0))))
        words = f"send it later with: python -m ray_jobs.track {scene.run.root}"
        require(words in scene.said, f"nobody said how to send the run: {scene.said[-500:]}")
        require(words in str(scene.run.read_json("status.json")["notes"]), "the status does not say it")
        proxy.mend()
        place, sent = track.send(scene.run)
        require(sent, f"not sent: {place}")
        track.send(scene.run)
        require(sorted(server.names(name)) == ["run", "sr4 / faulty", "sr4 / pinv"], f"in MLflow: {server.names(name)}")


def second_driver(scene: Scene) -> None:
    """The same run is started again while it works: the second driver is refused, the first one not disturbed."""
    calls = scene.calls()
    hold = scene.folder / "hold"
    hold.touch()
    slow = Slow(seconds=0, calls=str(calls), hold=str(hold))
    trial, refusals = scene.experiment(slow), list[str]()

    def disturb() -> None:
        try:
            wait_until(lambda: len(list(calls.iterdir())) > 0, 120, "no batch was begun")
            second = subprocess.run(scene.command(slow), cwd=ROOT, capture_output=True, text=True, timeout=120)
            refusals.append(f"{second.returncode} {second.stderr}")
        finally:
            hold.unlink()

    thread = scene.meanwhile(disturb)
    scene.evaluate(trial)
    thread.join()
    require(refusals[0].startswith(f"{cli.WRONG_REQUEST} error: name: another run is at work"), f"said: {refusals}")
    check(scene, trial, scene.undisturbed(scene.experiment(Slow(seconds=0))))
    scene.evaluate(trial)

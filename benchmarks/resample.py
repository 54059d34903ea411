"""ReSample with its published constants, one image at a time against a batch, and null-space ReSample beside it.

Three arms on the same images, seeds and measurements: ``reference``, the official preset at batch 1 on one thread, in
PyTorch's default memory layout, as the script of a paper runs; ``resample``, the same preset in batches, one process of
one thread per core, set up as the actors of the pipeline are; ``nullspace_resample`` at its defaults, likewise. The
reference solves only the first --reference-images of the --images.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.harness import Options, Row, say
from benchmarks.problem import BOX, PRIOR, SR4, portraits
from ipsolve.evaluation import sampling
from ipsolve.metrics.fidelity import Psnr
from ipsolve.priors import load_prior
from ipsolve.runs.statistics import mean_interval, paired_difference
from ipsolve.solvers import parse_solver
from ray_jobs.pipeline.stages.malloc import keep_freed_memory

TASKS = {"sr4": SR4, "box": BOX}
OFFICIAL = {"solver": "resample", "preset": "official"}
NULLSPACE = {"solver": "nullspace_resample"}
QUICK = {
    "resample": {"num_steps": 12, "pixel_iterations": 2, "latent_iterations": 2},
    "nullspace_resample": {"num_steps": 6, "latent_iterations": 2},
}
Answer = dict[str, Any]


def rows(options: Options) -> list[Row]:
    images = 2 if options.quick else options.images
    alone = 1 if options.quick else min(options.reference_images, images)
    share = -(-images // options.threads)
    # name: solver, images, batch size, processes, channels_last
    arms = {
        "reference": (OFFICIAL, alone, 1, 1, False),
        "resample": (OFFICIAL, images, share, options.threads, True),
        "nullspace_resample": (NULLSPACE, images, share, options.threads, True),
    }
    found: list[Row] = []
    for task in options.tasks or TASKS:
        answers: dict[str, Answer] = {}
        for name, (solver, count, batch, processes, channels_last) in arms.items():
            if options.quick:
                solver = solver | QUICK[solver["solver"]]
            say(f"{task} {name}: {count} images in batches of {batch} in {processes} processes of one thread")
            call = {"task": task, "solver": solver, "batch": batch, "channels_last": channels_last}
            answers[name] = _side_by_side(options, count, processes, call)
        for name, (_, count, batch, processes, _) in arms.items():
            found.append(_row(task, name, answers, {"images": count, "batch": batch, "processes": processes}))
    return found


def _side_by_side(options: Options, count: int, processes: int, call: dict[str, Any]) -> Answer:
    """Solve the first ``count`` images, shared out to processes that run at the same time."""
    share = -(-count // processes)
    parts = [range(first, min(first + share, count)) for first in range(0, count, share)]

    def solve_part(part: range) -> Answer:
        answer: Answer = options.apart(solve, 1, first=part.start, end=part.stop, **call)
        return answer

    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(solve_part, parts))
    slowest = max(answer["seconds"] for answer in answers)
    psnr = [value for answer in answers for value in answer["psnr"]]
    return {"seconds": slowest / count, "psnr": psnr, "calls": answers[0]["calls"]}


def _row(task: str, name: str, answers: dict[str, Answer], sizes: dict[str, int]) -> Row:
    answer, reference, resample = answers[name], answers["reference"], answers["resample"]
    psnr = answer["psnr"]
    mean = mean_interval(psnr)
    row: Row = {
        "task": task,
        "arm": name,
        **sizes,
        "s per image": answer["seconds"],
        "times faster": reference["seconds"] / answer["seconds"],
        "psnr": f"{mean.value:.2f} ± {mean.half_width:.2f}" if mean.n > 1 else f"{mean.value:.2f}",
    }
    if name == "resample":  # on the images of both
        differences = [abs(a - b) for a, b in zip(psnr, reference["psnr"], strict=False)]
        row["largest psnr difference to reference"] = round(max(differences), 3)
    if name == "nullspace_resample":
        paired = paired_difference(psnr, resample["psnr"])
        row["psnr - resample"] = f"{paired.difference:+.2f} [{paired.low:+.2f}, {paired.high:+.2f}]"
    return row | {"network calls": answer["calls"], "psnr of each": " ".join(f"{value:.2f}" for value in psnr)}


@torch.no_grad()
def solve(task: str, solver: dict[str, Any], first: int, end: int, batch: int, channels_last: bool) -> Answer:
    """Solve test portraits ``first`` to ``end`` - 1 in batches; return the seconds of all and the PSNR of each."""
    if channels_last:  # as the actors of the pipeline are set up
        keep_freed_memory()
    prior = load_prior(PRIOR | {"channels_last": channels_last})
    method = parse_solver(solver)
    seconds, psnr, calls = 0.0, [], {}
    for start_of_batch in range(first, end, batch):
        trial = portraits(TASKS[task], range(start_of_batch, min(start_of_batch + batch, end)), prior)
        solved = sampling.solve(method, trial.problem)
        elapsed = solved.seconds * len(trial.x)
        seconds += elapsed
        psnr += Psnr()(solved.x, trial.x).tolist()
        calls = {name: int(value.double().mean().round()) for name, value in solved.calls.items()}
        say(f"images from {start_of_batch} on, {len(trial.x)} of them: {elapsed:.0f} s, psnr {psnr[-1]:.2f}")
    words = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in calls.items())
    return {"seconds": seconds, "psnr": psnr, "calls": words}

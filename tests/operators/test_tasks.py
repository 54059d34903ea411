"""Tasks from flat mappings, and the one line a wrong one gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ipsolve.operators import NOISES, OPERATORS, OperatorSpec, Task, describe_task, parse_task
from ipsolve.operators.noise import Gaussian, Shot
from ipsolve.operators.super_resolution import SuperResolution
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError


def test_operator_and_noise_stand_in_one_mapping() -> None:
    task = parse_task({"operator": "super_resolution", "factor": 8, "noise_std": 0.01})
    assert task == Task(SuperResolution(factor=8), Gaussian(noise_std=0.01))
    task = parse_task({"operator": "super_resolution", "noise": "shot", "photons": 20})
    assert task == Task(SuperResolution(factor=4), Shot(photons=20))


@pytest.mark.parametrize("noise", list(NOISES))
def test_a_description_is_complete_and_reads_back(spec: OperatorSpec, noise: str) -> None:
    task = parse_task({**describe_task(Task(spec, NOISES["gaussian"]())), "noise_std": 0.3})
    described = describe_task(task)
    assert described["noise_std"] == 0.3
    assert parse_task(described) == task
    other = parse_task({"operator": spec.name, "noise": noise, "blind": spec.blind})
    assert parse_task(describe_task(other)) == other
    assert other.blind == spec.blind


def test_the_default_inpainting_range_is_written_out() -> None:
    assert describe_task(parse_task({"operator": "random_inpainting"}))["drop_range"] == [0.70, 0.71]


def test_a_task_says_what_a_solver_can_rely_on() -> None:
    known = parse_task({"operator": "motion_blur", "noise_std": 0.1})
    assert known.traits == {"linear", "known", "noisy"}
    hidden = parse_task({"operator": "motion_blur", "boundary": "circular", "blind": True})
    assert hidden.traits == {"linear", "spectral", "blind", "noiseless"}
    assert parse_task({"operator": "hdr"}).traits == {"known", "noiseless"}
    assert "blind" not in describe_task(known)


WRONG: list[tuple[Any, str]] = [
    ([1], r"tasks\.t: must be a mapping of keys to values \(got \[1\]\)"),
    ({"operater": "hdr"}, r"tasks\.t\.operator: is required \(did you mean 'operator'\?\); allowed: .*hdr.*"),
    (
        {"operator": "super_resolutoin"},
        r"tasks\.t\.operator: unknown operator .* \(did you mean 'super_resolution'\?\).*",
    ),
    ({"operator": "hdr", "noise": "shoot"}, r"tasks\.t\.noise: unknown noise 'shoot' \(did you mean 'shot'\?\).*"),
    (
        {"operator": "super_resolution", "facter": 4},
        r"tasks\.t\.facter: unknown key \(did you mean 'factor'\?\); "
        r"allowed: operator, factor, noise, noise_std, blind",
    ),
    (
        {"operator": "hdr", "noise": "shot", "noise_std": 1},
        r"tasks\.t\.noise_std: unknown key.*allowed: .*photons, blind",
    ),
    ({"operator": "super_resolution", "factor": 17}, r"tasks\.t\.factor: must be less than or equal to 16 \(got 17\)"),
    ({"operator": "super_resolution", "factor": "x4"}, r"tasks\.t\.factor: must be a valid integer.*\(got 'x4'\)"),
    ({"operator": "denoising", "noise_std": -1}, r"tasks\.t\.noise_std: must be greater than or equal to 0 \(got -1\)"),
    ({"operator": "random_inpainting", "drop_rate": 1.5}, r"tasks\.t\.drop_rate: must be less than 1 \(got 1\.5\)"),
    ({"operator": "random_inpainting", "drop_range": [0.1]}, r"tasks\.t\.drop_range\.1: is required"),
    ({"operator": "random_inpainting", "drop_range": [0.9, 0.1]}, r"tasks\.t: drop_range must be \[low, high\].*"),
    ({"operator": "random_inpainting", "drop_rate": 0.5, "drop_range": [0, 0.5]}, r"tasks\.t: give drop_rate or .*"),
    (
        {"operator": "motion_blur", "boundary": "zero"},
        r"tasks\.t\.boundary: must be 'reflect' or 'circular' \(got 'zero'\)",
    ),
    ({"operator": "hdr", "blind": True}, r"tasks\.t\.blind: nothing of hdr can be kept .*; allowed: .*motion_blur.*"),
    ({"operator": "motion_blur", "blind": 1}, r"tasks\.t\.blind: must be true or false \(got 1\)"),
    ({"operator": "grayscale", "weights": [0, 0, 0]}, r"tasks\.t: weights: at least one must be greater than 0"),
]


@pytest.mark.parametrize(("mapping", "message"), WRONG, ids=[pattern[8:40] for _, pattern in WRONG])
def test_a_wrong_task_gets_one_line(mapping: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}$"):
        parse_task(mapping, "tasks.t")


MISFITS: list[tuple[dict[str, Any], tuple[int, int, int], str]] = [
    ({"operator": "super_resolution", "factor": 3}, (3, 64, 63), "factor: 3 does not divide the image sides 64x63"),
    ({"operator": "box_inpainting", "box": 65}, (3, 64, 64), "box: 65 does not fit into 64x64 .*at most 63"),
    ({"operator": "box_inpainting", "box": 60, "position": "random"}, (3, 64, 64), ".*margin of 4; at most 56"),
    ({"operator": "gaussian_blur", "kernel_size": 4}, (3, 64, 64), r"kernel_size: must be odd \(got 4\)"),
    ({"operator": "motion_blur", "kernel_size": 4}, (3, 64, 64), r"kernel_size: must be odd \(got 4\)"),
    ({"operator": "motion_blur", "kernel_size": 61}, (3, 16, 64), "kernel_size: 61 is too large .*; at most 31"),
    (
        {"operator": "motion_blur", "kernel_size": 61, "boundary": "circular"},
        (3, 16, 64),
        "kernel_size: 61 is too large .*; at most 15",
    ),
    ({"operator": "compressed_sensing", "ratio": 0.001}, (3, 8, 8), "ratio: 0.001 of 8x8 pixels is less than one .*"),
    ({"operator": "grayscale"}, (1, 8, 8), "grayscale is not for gray signals; allowed: rgb"),
    ({"operator": "jpeg"}, (3, 60, 64), "jpeg needs sides divisible by 8, not 60x64"),
]


@pytest.mark.parametrize(("task", "shape", "message"), MISFITS, ids=[message[:24] for *_, message in MISFITS])
def test_parameters_that_do_not_fit_the_image_are_refused_before_any_compute(
    task: dict[str, Any], shape: tuple[int, int, int], message: str
) -> None:
    spec = parse_task(task).operator
    for attempt in (lambda: spec.check_signal(shape), lambda: spec.draw(shape, image_rng(0, ["a"], "operator"))):
        with pytest.raises(RequestError, match=f"^{message}$"):
            attempt()


@pytest.mark.parametrize("side", [32, 64, 128, 256])
def test_defaults_fit_the_usual_sizes(side: int) -> None:
    for name in OPERATORS:
        spec = parse_task({"operator": name}).operator
        spec.check((3, side, side))


def test_motion_kernels_scale_with_the_image() -> None:
    spec = parse_task({"operator": "motion_blur"}).operator
    reach = {side: spec.draw((1, side, side), image_rng(0, ["a"], "operator"), torch.float64) for side in (64, 256)}
    assert {side: 2 * operator.radius + 1 for side, operator in reach.items()} == {64: 15, 256: 61}  # type: ignore[attr-defined]

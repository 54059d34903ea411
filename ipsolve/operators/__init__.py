"""Forward operators A and noise models. Importing this package registers every operator."""

from ipsolve.operators import (
    compressed_sensing,
    denoising,
    fourier_sampling,
    gaussian_blur,
    grayscale,
    hdr,
    inpainting,
    jpeg,
    motion_blur,
    phase_retrieval,
    super_resolution,
)
from ipsolve.operators.base import OPERATORS, LinearOperator, Operator, OperatorFamily, OperatorSpec, SpectralOperator
from ipsolve.operators.noise import NOISES, Noise
from ipsolve.operators.tasks import Task, describe_task, parse_task

__all__ = [
    "NOISES",
    "OPERATORS",
    "LinearOperator",
    "Noise",
    "Operator",
    "OperatorFamily",
    "OperatorSpec",
    "SpectralOperator",
    "Task",
    "compressed_sensing",
    "denoising",
    "describe_task",
    "fourier_sampling",
    "gaussian_blur",
    "grayscale",
    "hdr",
    "inpainting",
    "jpeg",
    "motion_blur",
    "parse_task",
    "phase_retrieval",
    "super_resolution",
]

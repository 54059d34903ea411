"""What every test runs under: one thread, nothing sent to anybody, no download."""

import os

import torch

# read when the libraries are first imported, and inherited by Ray's workers
os.environ.update(
    DO_NOT_TRACK="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
)

torch.set_num_threads(1)

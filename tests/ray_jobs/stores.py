"""Stores of MLflow for tests: a new database takes ten seconds to make, so that one is made and copied."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mlflow-template-"))
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


def make_store(folder: Path) -> MlflowClient:
    """Put an empty store where a run whose ``output`` is ``folder`` looks for one; return a client of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_template(), folder / "mlflow.db")
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")

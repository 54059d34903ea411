"""What is secret in the environment is in no file, log or page of a run, and no request may hold it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic.dataclasses import dataclass
from torch import Tensor

from benchmarks.faults.solvers import Faulty
from ipsolve.evaluation.isolation import one_line
from ipsolve.posterior.config import PosteriorConfig
from ipsolve.report import build_report
from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact, redact_all, refuse_secrets
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import write_summary
from ray_jobs import cli, track
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.status import run_to_end
from tests.ray_jobs.small_runs import do, experiment, mapping

TOKEN = "hf_qXvR71/+not=a.real-token"
LINES = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("STORE_PRIVATE_KEY", LINES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("API_TOKEN", "short")
    monkeypatch.setenv("PWD", "/home/me/ipsolve")
    monkeypatch.setenv("OLDPWD", "/home/me/ipsolve/docs")
    monkeypatch.setenv("DB_PWD", "correct horse")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "hidden-account")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"401 for {TOKEN}", "401 for [secret]"),
        ("GET /?auth=hf_qXvR71%2F%2Bnot%3Da.real-token", "GET /?auth=[secret]"),
        (f"key {' '.join(LINES.split())} is wrong", "key [secret] is wrong"),
        ("line MIIEvQIBADANBg", "line [secret]"),
        ("s3://AKIA:abc@bucket/runs", "s3://[secret]@bucket/runs"),
        ("clone https://ghp_abc@host/x failed", "clone https://[secret]@host/x failed"),
        ("https://host/x?sig=abc%3D&region=eu", "https://host/x?sig=[secret]&region=eu"),
        ("s3://b/x?secret_key=abc;region=eu", "s3://b/x?secret_key=[secret];region=eu"),
        ("postgresql://me:p/s@s@host/db", "postgresql://[secret]@host/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dx", "mssql+pyodbc:///?odbc_connect=[secret]"),
        ("AccountName=x;AccountKey=abc==;x", "AccountName=x;AccountKey=[secret];x"),
        ("it is hidden-account behind it", "it is [secret] behind it"),
        ("correct horse at /home/me/ipsolve/docs", "[secret] at /home/me/ipsolve/docs"),
        ("Token authentication is disabled, the tokens are short", None),
        ("sftp://me@host/x and abfs://container@account/x and user@host.org", None),
        ("s3://bucket/runs?region=x&endpoint_override=127.0.0.1:9000", None),
        ("http://127.0.0.1:5000/a@b and s3://bucket:9000/x?y, me@host.org", None),
    ],
)
def test_texts_lose_their_secrets_and_nothing_else(text: str, expected: str | None) -> None:
    assert redact(text) == (text if expected is None else expected)
    assert redact_all({"a": [text, 1, None]}) == {"a": [redact(text), 1, None]}


SECRET_URIS = {
    "tracking.uri": "https://user:s3cr3tword@host",
    "output": "s3://AKIAKEY:s3cr3tword@bucket/runs",
    "data.source": "s3://bucket/x?access_key=AKIAKEY&secret_key=s3cr3tword",
    "weights.inception": "https://s3cr3tword@host/w",
    "prior.path": "gs://bucket/x?access_token=s3cr3tword",
    "tracking.experiment": "postgresql://me:s3cr3tword/x@host/db",
    "weights.vgg": "abfs://c@account/x?accountKey=s3cr3tword",
}


@pytest.mark.parametrize("key", SECRET_URIS)
def test_a_secret_in_a_request_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    request, (section, _, name) = mapping(tmp_path), key.partition(".")
    request[section] = {**request.get(section, {}), name: SECRET_URIS[key]} if name else SECRET_URIS[key]
    with pytest.raises(RequestError) as caught:
        build(Config, request, "config")
    assert f"{key}: must not hold a password, key or token" in str(caught.value)
    assert "in the environment" in str(caught.value)
    assert "s3cr3tword" not in str(caught.value)
    with pytest.raises(RequestError, match="must not hold a password"):
        build(PosteriorConfig, {"output": SECRET_URIS["output"]}, "config")


@pytest.mark.parametrize("uri", ["sqlite:///a/b.db", "http://host:5000", "sftp://me@host/x", "postgresql://me@host/db"])
def test_what_names_no_secret_is_let_through(uri: str) -> None:
    refuse_secrets({"tracking": {"uri": uri}}, "config")


@dataclass(frozen=True)
class Leaks(Faulty):
    """Raises with a token in its words, as clients of services do."""

    name: ClassVar[str] = "leaks"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        raise PermissionError(f"401 for https://user:hunter2222@host/model?token={TOKEN}\nnext line {TOKEN}")


def test_an_exception_with_a_token_leaves_it_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = experiment(tmp_path, {"leaks": Leaks()}, baseline="pinv")

    def work(status: object) -> tuple[int, str]:
        do(trial)
        run = RunFolder(trial.config.run_location)
        config = dataclasses.asdict(trial.config)
        run.write(run.path("config.yaml"), yaml.safe_dump(config, sort_keys=False).encode())
        run.write_json("provenance.json", provenance.describe(trial, f"with {TOKEN}") | {"end": provenance.now()})
        write_summary(run, baseline="pinv")
        build_report(run)
        return cli.SOME_IMAGES_FAILED, "complete, but some failed"

    run = RunFolder(trial.config.run_location)
    assert run_to_end(run, "run", work) == cli.SOME_IMAGES_FAILED
    assert track.main([run.root]) == cli.COMPLETE

    def breaks(status: object) -> tuple[int, str]:
        raise RuntimeError(f"broke at\n  https://user:hunter2222@host with {TOKEN}")

    assert run_to_end(run, "run", breaks) == cli.FAILED
    assert "[secret]" in run.read_json("status.json")["details"]

    def refused() -> int:
        raise RequestError(f"hf: {TOKEN} is refused")

    assert cli.run_command(refused) == cli.WRONG_REQUEST
    failures = run.failures().to_pylist()
    assert len(failures) == 5
    assert "401 for https://[secret]@host/model?token=[secret] next line [secret]" in failures[0]["error"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"mlflow.db", "report.html", "report.md", "status.json", "mlflow.json"}
    texts = [path.read_bytes().decode("latin-1") for path in files]
    texts += [json.dumps(pq.read_table(path).to_pylist(), default=str) for path in files if path.suffix == ".parquet"]
    texts += [*capsys.readouterr(), one_line(RuntimeError(TOKEN))]
    assert [text for text in texts if TOKEN in text or "hunter2222" in text] == []

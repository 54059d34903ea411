"""A wrong request at the real command line: one line on stderr, exit code 2, and no Ray was started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ipsolve.priors
from ray_jobs import cli
from tests.ray_jobs.small_runs import mapping

ROOT = Path(__file__).parents[2]
BUILTIN = Path(ipsolve.priors.__file__).parent / "builtin" / "portraits-64"
REQUESTS = {
    "unknown key": (["slovers.x=1"], "slovers: unknown key (did you mean 'solvers'?)"),
    "unknown solver": (["solvers.ddnm.solver=ddnmm"], "unknown solver 'ddnmm' (did you mean 'ddnm'?)"),
    "wrong type": (["compute.batch_size=lots"], "compute.batch_size: "),
    "missing path": (["data.source=no/such/folder"], "data.source: no/such/folder does not exist"),
    "wrong shapes": (["prior={prior: latent, path: PRIOR}"], "prior.path: "),
    "bad output": (["output=CONFIG"], "output: cannot write to"),
    "bad output, only planned": (["output=CONFIG", "--dry-run"], "output: cannot write to"),
    "no published figures": (["published=CONFIG", "--dry-run"], "published: "),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("requests")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(mapping(folder / "runs")))
    prior = folder / "prior"
    shutil.copytree(BUILTIN, prior)
    unet = json.loads((prior / "unet" / "config.json").read_text())
    unet["out_channels"] += 1
    (prior / "unet" / "config.json").chmod(0o644)
    (prior / "unet" / "config.json").write_text(json.dumps(unet))
    started = {}
    for name, (words, _) in REQUESTS.items():
        words = [word.replace("PRIOR", str(prior)).replace("CONFIG", str(config)) for word in words]
        line = [sys.executable, "-m", "ray_jobs.evaluate", str(config), *words]
        started[name] = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return {
        name: (*process.communicate(timeout=120)[::-1], process.returncode)[::-1] for name, process in started.items()
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_gets_one_line_and_exit_code_2(answers: dict[str, tuple[int, str, str]], name: str) -> None:
    code, out, err = answers[name]
    assert code == cli.WRONG_REQUEST, err
    assert REQUESTS[name][1] in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "actors" not in out


def test_the_plan_is_printed_and_nothing_is_written(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path / "runs", metrics=["psnr", "fid"])))
    line = [sys.executable, "-m", "ray_jobs.evaluate", str(config), "--dry-run", "data.limit=3"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "9 of 9 images missing, in 6 batches",
        "sr4 / ddnm / seed 0",
        "1 actors of 1 threads",
        "batch size 2",
    ):
        assert words in done.stdout
    assert not (tmp_path / "runs").exists()


def test_everything_registered_is_listed() -> None:
    line = [sys.executable, "-m", "ray_jobs.evaluate", "--list"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    from ipsolve.metrics import METRICS, SET_METRICS
    from ipsolve.operators import NOISES, OPERATORS
    from ipsolve.priors import PRIORS
    from ipsolve.solvers import SOLVERS

    first_words = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert first_words >= {*OPERATORS, *NOISES, *PRIORS, *SOLVERS, *METRICS, *SET_METRICS}
    assert all(str(SOLVERS[name].citation) in done.stdout for name in SOLVERS)

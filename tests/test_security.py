"""What comes from a configuration or from data stays data: no path out of a run, no script in a page, no code run."""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipsolve.report import build_report
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config
from ipsolve.runs.results import RunFolder
from ray_jobs import track
from ray_jobs.cli import printable
from ray_jobs.pipeline.folder.batches import Failure, Storage, file_name
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.training.config import parse_config
from tests.ray_jobs.small_runs import do, experiment, mapping
from tests.ray_jobs.test_track import finish

ROOT = Path(__file__).parents[1]
NAMES = ["../x", "/etc/x", "a/../../b", "a/b", "a\0b", "a\nb", "a\n", "..", ".", ".hidden", "-x", "a" * 999, "", "a\\b"]
IDS = ["../../etc/passwd", "/etc/passwd", "a\nb", "a\tb", "..", "a\0b", "<script>alert(1)</script>", "x" * 5000, " "]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["name", "tasks", "solvers"])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, key: str, name: str) -> None:
    request = mapping(tmp_path)
    request[key] = name if key == "name" else {name: next(iter(request[key].values()))}
    with pytest.raises(RequestError) as caught:
        build(Config, request, "config")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_stays_in_its_folder_too(name: str) -> None:
    with pytest.raises(RequestError, match=r"^name: must match"):
        parse_config({"name": name})


def test_ids_of_a_table_are_data_and_no_paths(tmp_path: Path) -> None:
    folder, runs = tmp_path / "images", tmp_path / "deep" / "runs"
    folder.mkdir()
    Image.new("RGB", (16, 16), "teal").save(folder / "x.png")
    images = [(folder / "x.png").read_bytes()] * len(IDS)
    images[1] = b"not an image"
    (folder / "x.png").unlink()
    pq.write_table(pa.table({"image": images, "id": IDS}), folder / "a.parquet")
    before = sorted(path for path in tmp_path.rglob("*"))
    trial = experiment(runs, data={"source": str(folder), "id_column": "id"}, compute={"batch_size": 1})
    run = finish(trial)
    assert set(run.results(["image_id"])["image_id"].to_pylist()) == {*IDS} - {IDS[1]}
    assert {row["image_id"] for row in run.failures().to_pylist()} == {IDS[1]}
    assert do(trial).images_missing == 0
    page = Path(build_report(run)).read_text()
    new = [path for path in tmp_path.rglob("*") if path not in before]
    assert [path for path in new if not path.is_relative_to(tmp_path / "deep")] == []
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_images_with_strange_names_are_solved(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("a\nb.png", "c...png", "d\x1b[31m.png", "<img src=x onerror=alert(1)>.png", "e..e/f..f/g.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (16, 16), "teal").save(folder / name)
    trial = experiment(tmp_path / "runs", data={"source": str(folder)})
    run = finish(trial)
    assert len(run.results(["image_id"])) == 2 * 5
    assert "<img src=x" not in Path(build_report(run)).read_text()


def test_batches_do_not_share_a_name() -> None:
    assert file_name("c", ["a\nb"]) != file_name("c", ["a", "b"])


def test_an_error_is_text_in_the_page_and_one_line_on_a_terminal(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    storage, cell = Storage(trial.config.run_location), trial.cells[0]
    error = "<script>alert(2)</script><svg onload=alert(3)>"
    storage.save(cell, trial.image_ids[:1], pa.table({}), [Failure.of(cell, trial.image_ids[0], "solve", error)])
    figures = tmp_path / "figures.yaml"
    figures.write_text("title: <script>alert(4)</script>\nresults: {sr4: {<script>alert(5)</script>: {psnr: 1}}}\n")
    trial = experiment(tmp_path, published=str(figures))
    page = Path(build_report(finish(trial))).read_text()
    for number in (2, 4, 5):
        assert f"&lt;script&gt;alert({number})&lt;/script&gt;" in page
        assert f"<script>alert({number})" not in page
    assert "<svg onload" not in page
    assert "default-src 'none'" in page  # and a browser that is told so fetches nothing
    assert printable("a\nb\x1b[31m\x9bü") == "a\\nb\\x1b[31m\\x9bü"


def test_an_artifact_with_a_path_in_its_name_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket may hold an object called ``figures/../../x.svg``; a copy of it must not become a file elsewhere."""
    run = finish(experiment(f"memory:/{tmp_path}/runs"))
    outside = tmp_path / "work"
    outside.mkdir()
    monkeypatch.chdir(outside)
    hostile = run.path("figures", "..", "..", "..", "..", "..", "..", "..", str(outside).strip("/"), "x.svg")
    monkeypatch.setattr(RunFolder, "files", lambda self, *parts, **_: [hostile, self.path("figures", "a\nb.svg")])
    place, sent = track.send(run)
    assert sent, place
    assert list(outside.rglob("*.svg")) == []


def test_a_run_is_tidied_within_itself(tmp_path: Path) -> None:
    other = tmp_path / "other" / "results"
    other.mkdir(parents=True)
    (other / "abc-1.parquet").write_bytes(b"another run")
    trial = experiment(tmp_path / "runs")
    do(trial)
    tidy(RunIndex(RunFolder(trial.config.run_location), []), [], set(), retry_failed=True)
    assert (other / "abc-1.parquet").read_bytes() == b"another run"


FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls_in(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), call) for call in calls]


def dangers_in(text: str) -> list[str]:
    """Return what in Python source could run what is in a file or a text."""
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in modules if name.split(".")[0] in FORBIDDEN]
    uses = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if found == ["import pickle"] and {use for use in uses if use.startswith("pickle.")} == {"pickle.UnpicklingError"}:
        found = []  # the name of what torch.load raises when it refuses a file
    for name, call in calls_in(tree):
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        last = name.rpartition(".")[2]
        unsafe = (
            (name == "torch.load" and words.get("weights_only") != "True")
            or words.get("allow_pickle", "False") != "False"
            or words.get("shell", "False") != "False"
            or words.get("trust_remote_code", "False") != "False"
            # _Loader is a SafeLoader: ipsolve/runs/config.py
            or (name == "yaml.load" and words.get("Loader") != "_Loader")
            or (name.startswith("yaml.") and last in ("load_all", "unsafe_load", "full_load"))
            or name in ("os.system", "os.popen", "eval", "exec", "pd.read_pickle", "torch.jit.load", "torch.hub.load")
            # a scheduler and a tokenizer are files of text, a model may be a pickle
            or (
                last == "from_pretrained"
                and not name.partition(".from_")[0].endswith(("Scheduler", "CLIPTokenizer", "T5TokenizerFast"))
                and words.get("use_safetensors") != "True"
            )
        )
        found += [ast.unparse(call)] if unsafe else []
    return found


@pytest.mark.parametrize("package", ["ipsolve", "ray_jobs", "tuning", "benchmarks"])
def test_nothing_that_is_read_is_run(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [(path.name, found) for path in files if (found := dangers_in(path.read_text()))] == []


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "torch.load(x)", "torch.load(x, weights_only=False)", "yaml.load(x)",
     "yaml.load(x, Loader=yaml.Loader)",
     "np.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "eval(x)", "os.system(x)"],
)  # fmt: skip
def test_the_scan_sees(text: str) -> None:
    assert len(dangers_in(text)) == 1

"""A request is either understood in full or refused in one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

from ipsolve.metrics import SET_METRICS
from ipsolve.metrics.features import INCEPTION
from ipsolve.posterior.config import load_posterior_config
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.config import Config, load_config
from ipsolve.runs.experiment import Experiment
from tests.tuning.small_sweeps import mapping
from tuning.request import load_sweep

BASE: dict[str, Any] = {
    "name": "small",
    "data": {"source": "portraits:test", "limit": 3},
    "prior": {"prior": "mixture", "image_shape": [3, 16, 16]},
    "tasks": {"sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.05}},
    "solvers": {"pinv": {"solver": "pseudo_inverse"}, "ddnm": {"solver": "ddnm", "num_steps": 4}},
    "metrics": ["psnr"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(BASE))
    return file


def experiment(**changes: Any) -> Experiment:
    return Experiment.of(build(Config, BASE | changes, "config"))


def test_overrides_are_dotted_yaml(path: Path) -> None:
    words = [
        "solvers.ddnm.num_steps=7",
        "seed=[0, 1]",
        "compute.batch_size=3",
        "tracking.uri=http://host:5000",
        "baseline=pinv",
    ]
    config = load_config(path, words)
    assert config.solvers["ddnm"] == {"solver": "ddnm", "num_steps": 7}
    assert (config.seeds, config.compute.batch_size, config.baseline) == ([0, 1], 3, "pinv")
    assert config.tracking.uri == "http://host:5000"
    assert config.run_location == "runs/small"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("compute.batchsize=3", "compute.batchsize: unknown key (did you mean 'batch_size'?)"),
        ("slovers.x.solver=tv", "slovers: unknown key (did you mean 'solvers'?)"),
        ("compute.batch_size=many", "compute.batch_size"),
        ("compute.precision=float8", "compute.precision"),
        ("compute.gpus_per_actor=1.5", "compute.gpus_per_actor: must be at most 1"),
        ("compute.gpus_per_actor=.inf", "compute.gpus_per_actor: must be at most 1"),
        ("compute.gpus_per_actor=-1", "compute.gpus_per_actor"),
        ("seed=-1", "seed: must"),
        ("seed=[]", "seed: must"),
        ("name=../elsewhere", "name: "),
        ("tasks={../x: {operator: denoising}}", "tasks"),
        ("solvers={}", "solvers: must not be empty"),
        ("name.x=1", "'name' is a value"),
        ("batch_size", "must look like key=value"),
        ("seed=[0", "not YAML"),
        ("seed=9223372036854775808", "seed: must be less than 9223372036854775808"),
        ("compute.num_actors=many", "or 'auto' (got 'many')"),
        ("data={limit: 1, limit: 2}", "line 1: the key 'limit' is there twice"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(path: Path, word: str, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        load_config(path, [word])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("word", "gpus"), [("0", 0), ("0.25", 0.25), ("1", 1), ("2", 2), ("auto", "auto")])
def test_an_actor_has_a_share_of_a_gpu_or_whole_ones(path: Path, word: str, gpus: object) -> None:
    assert load_config(path, [f"compute.gpus_per_actor={word}"]).compute.gpus_per_actor == gpus


def test_a_configuration_may_lie_behind_a_uri(path: Path) -> None:
    assert load_config(f"file://{path}", ["seed=3"]) == load_config(path, ["seed=3"])
    fsspec.filesystem("memory").pipe("/runs/small.yaml", path.read_bytes())
    assert load_config("memory://runs/small.yaml") == load_config(path)
    for absent in (f"file://{path}.gone", "memory://runs/gone.yaml", "gone://x.yaml"):
        with pytest.raises(RequestError, match=r"\A.*gone.*\Z"):
            load_config(absent)


def test_a_key_that_is_there_twice_is_refused(path: Path) -> None:
    text = path.read_text()
    path.write_text(f"{text}seed: 1\nseed: 2\n")
    with pytest.raises(RequestError, match=r"small\.yaml is not YAML .*: line \d+: the key 'seed' is there twice$"):
        load_config(path)
    path.write_text(f"{text}seed: 2\n")
    assert load_config(path).seeds == [2]


@pytest.mark.parametrize("content", ["- a list", "a: [", None])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RequestError, match=r"x\.yaml"):
        load_config(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solvers": {"a": {"solver": "resampel"}}}, "solvers.a.solver: unknown solver 'resampel' (did you mean"),
        ({"solvers": {"a": {"num_steps": 3}}}, "solvers.a.solver: is required"),
        ({"solvers": {"a": {"solver": "ddnm", "num_step": 3}}}, "solvers.a.num_step: unknown key (did you mean"),
        ({"solvers": {"a": {"solver": "ddnm", "num_steps": "x"}}}, "solvers.a.num_steps"),
        ({"tasks": {"t": {"operator": "super_resolution", "factor": 5}}}, "tasks.t"),
        ({"tasks": {"t": {"operator": "sr"}}}, "tasks.t.operator: unknown operator"),
        ({"tasks": {"t": {"operator": "hdr"}}}, "solvers.pinv on tasks.t: solver pseudo_inverse needs a linear"),
        ({"solvers": {"a": {"solver": "psld"}}}, "solvers.a on tasks.sr4: solver psld needs a latent prior"),
        ({"prior": {"prior": "latant"}}, "prior.prior: unknown prior 'latant' (did you mean 'latent'?)"),
        ({"prior": {"prior": "latent", "path": "nowhere"}}, "prior.path"),
        ({"prior": {"prior": "mixture", "image_shape": [3, 16, 32]}}, "square"),
        ({"baseline": "pin"}, "baseline: no solver 'pin' (did you mean 'pinv'?)"),
        ({"metrics": [{"metric": "lpips", "nett": "vgg"}]}, "metrics.0.nett: unknown key (did you mean 'net'?)"),
        ({"metrics": ["psnr", {"net": "vgg"}]}, "metrics.1.metric: is required; allowed: "),
        ({"metrics": ["psnr", {"metric": "fidd"}]}, "metrics.1.metric: unknown metric 'fidd' (did you mean 'fid'?)"),
        ({"metrics": ["kid", {"metric": "kid", "subsets": 3}]}, "metrics: kid is there twice"),
        ({"samples": 0}, "samples: must be greater than or equal to 1 (got 0)"),
        ({"headline": "psnrr"}, "headline: no metric of images that is asked for: 'psnrr' (did you mean 'psnr'?)"),
        ({"headline": "ssim"}, "headline: no metric of images that is asked for: 'ssim'; allowed: psnr"),
        ({"headline": "fid", "metrics": ["fid"]}, "'fid'; allowed: none, the request asks for no metric of images"),
        ({"metrics": ["psnrr"]}, "metrics: unknown metric 'psnrr' (did you mean 'psnr'?)"),
        ({"metrics": ["ssim"], "prior": {"prior": "mixture", "image_shape": [3, 8, 8]}}, "metrics: ssim"),
        ({"data": {"source": "nowhere"}}, "data.source"),
        ({"data": {"source": "portraits:test", "limt": 3}}, "data.limt: unknown key (did you mean 'limit'?)"),
        ({"data": {"source": "portraits:test", "limit": 0}}, "data.limit"),
        ({"published": "nowhere.yaml"}, "published: cannot read the configuration 'nowhere.yaml': No such file"),
        ({"tracking": {"uri": "http://me:secret@host"}}, "tracking.uri: must not hold a password"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        experiment(**changes)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_the_resolved_configuration_is_the_same_experiment() -> None:
    first = experiment()
    resolved = yaml.safe_load(yaml.safe_dump(first.resolved(), sort_keys=False))
    assert resolved["solvers"]["ddnm"] == {
        "solver": "ddnm",
        "num_steps": 4,
        "eta": 0.85,
        "noise_aware": True,
        "noise_rule": "spectral",
        "travel_length": 1,
        "travel_repeat": 1,
        "timestep_spacing": None,
    }
    second = Experiment.of(build(Config, resolved, "config"))
    assert second.cells == first.cells
    assert second.reference_cell == first.reference_cell
    assert second.resolved() == first.resolved()


def test_a_cell_is_all_that_its_numbers_depend_on() -> None:
    base = {cell.hash for cell in experiment().cells}
    same: list[dict[str, Any]] = [
        {"name": "other"},
        {"data": {"source": "portraits:test", "limit": 2}},
        {"compute": {"batch_size": 1, "num_actors": 2}},
        {"metrics": ["psnr", "ssim"]},
        {"solvers": {"pinv": {"solver": "pseudo_inverse", "signal_std": 0.3}, "ddnm": BASE["solvers"]["ddnm"]}},
    ]
    other: list[dict[str, Any]] = [
        {"seed": 1},
        {"data": {"source": "portraits:val", "limit": 3}},
        {"compute": {"precision": "float64"}},
        {"prior": BASE["prior"] | {"std": 0.2}},
        {"tasks": {"sr4": BASE["tasks"]["sr4"] | {"noise_std": 0.04}}},
    ]
    for changes in same:
        assert {cell.hash for cell in experiment(**changes).cells} == base
    for changes in other:
        assert not {cell.hash for cell in experiment(**changes).cells} & base


NETWORKS = {
    "lpips": {"metrics": ["lpips"], "weights": {"lpips_net": "vgg"}},
    "fid": {"metrics": ["fid"], "weights": {"inception_sha256": "0" * 64}},
}


@pytest.mark.parametrize("metric", NETWORKS)
def test_the_network_of_a_metric_belongs_to_a_cell_where_the_metric_is_asked_for(
    metric: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    base = {cell.hash for cell in experiment().cells}
    other = experiment(**NETWORKS[metric])
    assert not {cell.hash for cell in other.cells} & base
    assert other.origin()["networks"] == NETWORKS[metric]["weights"]
    for same in ({"weights": NETWORKS[metric]["weights"]}, {"metrics": [metric]}):
        assert {cell.hash for cell in experiment(**same).cells} == base
        assert experiment(**same).origin()["networks"] == {}
    usual: dict[str, Any] = {"metrics": ["lpips", "fid"], "weights": {"inception_sha256": INCEPTION.sha256.upper()}}
    assert {cell.hash for cell in experiment(**usual).cells} == base


def test_settings_of_a_metric_are_those_of_the_section_weights_or_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    by_weights = experiment(**NETWORKS["lpips"])
    own = experiment(metrics=[{"metric": "lpips", "net": "vgg"}])
    assert own.asked == by_weights.asked
    assert own.all_cells == by_weights.all_cells
    # what a distance between sets does with features belongs to no row
    assert experiment(metrics=["psnr", {"metric": "kid", "subsets": 3}]).all_cells == experiment().all_cells
    assert experiment(metrics=["psnr", {"metric": "kid", "subsets": 3}]).asked.sets["kid"] != SET_METRICS["kid"]()


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"metrics": ["ssim", "psnr"]}, "psnr"),
        ({"metrics": ["fd_prior", "ssim"]}, "ssim"),
        ({"metrics": ["psnr", "ssim"], "headline": "ssim"}, "ssim"),
        ({"metrics": ["fd_prior"]}, None),
    ],
)
def test_a_run_is_read_by_psnr_unless_it_says_otherwise(changes: dict[str, Any], headline: str | None) -> None:
    trial = experiment(**changes)
    assert trial.resolved()["headline"] == headline
    assert {cell.hash for cell in trial.cells} == {cell.hash for cell in experiment().cells}


def test_samples_belong_to_a_cell_where_there_are_several() -> None:
    one, several = experiment(samples=1), experiment(samples=3)
    assert one.all_cells == experiment().all_cells  # of runs that know no samples
    assert not {cell.hash for cell in one.cells} & {cell.hash for cell in several.cells}
    assert several.reference_cell == one.reference_cell
    assert several.resolved()["samples"] == several.config.samples == 3


def test_the_place_of_weights_belongs_to_no_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "file").write_bytes(b"not the published one, so that it is not used")
    paths = {"lpips": str(tmp_path / "file"), "inception": str(tmp_path / "file")}
    here = experiment(metrics=["lpips", "fid"], weights=paths)
    assert here.all_cells == experiment(metrics=["lpips", "fid"]).all_cells


def test_a_metric_without_its_weights_is_reported_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trial = experiment(metrics=["psnr", "lpips", "fd_prior"])
    assert list(trial.asked.here.images) == ["psnr"]
    assert list(trial.asked.here.features) == ["prior"]
    assert "curl" in trial.missing_metrics["lpips"]


def test_a_local_output_may_be_in_the_home_of_its_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(path, ["output=~/runs"]).run_location == "/home/someone/runs/small"
    for kept in ("s3://bucket/~/runs", "runs/~", "runs"):
        assert load_config(path, [f"output={kept}"]).output == kept
    file = path.with_name("other.yaml")
    file.write_text(yaml.safe_dump(mapping(path.parent)))
    assert load_sweep(file, ["output=~/runs"]).run_location == "/home/someone/runs/small"
    posterior = Path(__file__).parents[1] / "configs" / "posterior" / "mcgdiff-small.yaml"
    assert load_posterior_config(posterior, ["output=~/runs"]).output == "/home/someone/runs"

"""The training job: its parts by the laws they keep, then one tiny training, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from ipsolve.datasets.portraits import render
from ipsolve.priors import load_prior
from ipsolve.requests.errors import RequestError
from ray_jobs.pipeline.cluster import connection as cluster
from ray_jobs.train_prior import train_prior
from ray_jobs.training import evaluate_prior
from ray_jobs.training.config import TrainingConfig, UNet, load_config, parse_config
from ray_jobs.training.export import encode, fold_whitening
from ray_jobs.training.linear_code import PatchCode, initialise_encoder
from ray_jobs.training.networks import new_autoencoder, noise_scheduler
from ray_jobs.training.shards import Shards
from ray_jobs.training.tracking import Tracker

pytestmark = pytest.mark.xdist_group("ray, too")

CONFIGS = Path(__file__).parents[2] / "configs" / "priors"
TINY = {
    "name": "tiny",
    "data": {"size": 32, "num_train": 48, "num_val": 16, "shard_size": 20},
    "autoencoder": {
        "decoder_steps": 2,
        "joint_steps": 2,
        "batch_size_per_worker": 4,
        "eval_every": 2,
        "eval_images": 16,
        "checkpoint_every": 2,
    },
    "unet": {
        "channels": [16, 32],
        "attention": [False, True],
        "norm_groups": 8,
        "attention_head_dim": 8,
        "steps": 24,
        "batch_size_per_worker": 4,
        "eval_every": 4,
        "eval_images": 16,
        "checkpoint_every": 4,
        "samples_every": 1000,
    },
    "compute": {"num_workers": 1, "precision": "float32", "max_failures": 0},
}


def portraits(count: int, size: int = 64) -> torch.Tensor:
    return render(range(count), size) * 2 - 1


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return load_config(str(CONFIGS / "portraits64.yaml"))


# ---- parts


def test_patch_code_is_the_best_linear_code_of_its_size() -> None:
    images = portraits(16)
    code = PatchCode.fit(images, 8)
    z = code(images)
    torch.testing.assert_close(torch.cov(z.transpose(0, 1).flatten(1)), torch.eye(8), atol=1e-2, rtol=0)
    patches = nn.functional.unfold(images, 4, stride=4).transpose(1, 2).reshape(-1, 48)
    patches = patches - patches.mean(0)
    basis = code.basis.flatten(1)
    lost = torch.linalg.svdvals(patches)[8:].square().sum()  # Eckart & Young 1936: no other code loses less
    torch.testing.assert_close(
        (patches - patches @ torch.linalg.pinv(basis) @ basis).square().sum(), lost, rtol=1e-2, atol=0
    )


def test_encoder_starts_as_the_linear_code(config: TrainingConfig) -> None:
    images = portraits(32)
    code = PatchCode.fit(images, config.autoencoder.latent_channels)
    vae = new_autoencoder(config)
    with torch.no_grad():
        initialise_encoder(vae, code)
        difference = vae.encode(images).latent_dist.mean - code(images)
    assert difference.square().mean().sqrt() < 0.03 * code(images).square().mean().sqrt()


def test_whitening_changes_latents_and_not_reconstructions(config: TrainingConfig) -> None:
    torch.manual_seed(0)
    vae = new_autoencoder(config).double()
    images = portraits(8).double()
    mean, std = torch.randn(8).double(), torch.rand(8).double() + 0.5
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        reconstruction = vae.decode(before.mean).sample
        fold_whitening(vae, mean, std)
        after = vae.encode(images).latent_dist
        wanted = (before.mean - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
        torch.testing.assert_close(after.mean, wanted)
        torch.testing.assert_close(after.std, before.std / std.view(1, -1, 1, 1))
        torch.testing.assert_close(vae.decode(after.mean).sample, reconstruction)


def test_a_dead_tracking_server_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_config({**TINY, "output": str(tmp_path), "tracking": {"uri": "http://127.0.0.1:9"}})
    config.folder.mkdir()
    began = time.monotonic()
    tracker = Tracker.start(config)
    tracker.metrics("unet", {"loss": 1.0}, 1)
    tracker.finish()
    assert time.monotonic() - began < 30
    assert capsys.readouterr().out.count("warning: MLflow") == 1


# ---- the whole job


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    cluster.connect(num_cpus=1)  # and two more for readers, here the trainer
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def trained(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    """One tiny training that nothing disturbed."""
    config = parse_config({**TINY, "output": str(tmp_path_factory.mktemp("undisturbed"))})
    train_prior(config)
    return config


@pytest.mark.slow
def test_the_result_is_a_prior_with_white_latents(trained: TrainingConfig) -> None:
    prior = load_prior({"prior": "latent", "path": str(trained.folder / "prior")})
    assert prior.image_shape == (3, 32, 32)
    z = prior.encode(portraits(48, 32))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=0.02, rtol=0)
    level = prior.schedule.level(500)
    assert prior.denoise(torch.randn(2, *prior.latent_shape), level).isfinite().all()
    stored = load_file(trained.folder / "prior" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}


@pytest.mark.slow
def test_cached_images_and_latents_are_those_of_the_source(trained: TrainingConfig) -> None:
    folder = next((trained.folder / "cache").glob("images-*/000000040.npy")).parent
    pixels = Shards(folder)[np.array([47, 0, 20])]
    expected = (render([47, 0, 20], 32) * 255).round().byte().permute(0, 2, 3, 1)
    torch.testing.assert_close(pixels, expected)
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(trained.folder / "prior" / "vae")
    latents = Shards(trained.folder / "cache" / "latents-train")[np.array([47, 0, 20])]
    torch.testing.assert_close(latents.float(), encode(vae, pixels), atol=0.02, rtol=0.01)


@pytest.mark.slow
def test_curves_are_in_files_and_in_mlflow(trained: TrainingConfig) -> None:
    from mlflow import MlflowClient

    header, *rows = (trained.folder / "curves" / "unet.csv").read_text().splitlines()
    assert header.startswith("step,images,")
    assert [int(row.split(",")[0]) for row in rows] == [0, 4, 8, 12, 16, 20, 24]
    client = MlflowClient(f"sqlite:///{trained.folder / 'mlflow.db'}")
    run = client.get_run((trained.folder / "mlflow_run_id").read_text())
    assert run.data.params["unet.steps"] == "24"
    history = client.get_metric_history(run.info.run_id, "unet/eps_mse")
    assert [point.step for point in history] == [0, 4, 8, 12, 16, 20, 24]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == ["samples/step-0000024.png"]


def kill_worker_after_first_checkpoint(checkpoints: Path) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if any(checkpoints.glob("checkpoint_*/state.pt")):
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith("ray::RayTrain") or "RayTrainWorker" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_weights(
    trained: TrainingConfig, ray_here: None, tmp_path: Path
) -> None:
    vae = str(trained.folder / "prior" / "vae")
    tree = {**TINY, "output": str(tmp_path), "autoencoder": {"init_from": vae}}
    config = parse_config(tree)
    killer = threading.Thread(
        target=kill_worker_after_first_checkpoint, args=(config.folder / "checkpoints" / "unet",), daemon=True
    )
    killer.start()
    with pytest.raises(Exception, match=r"(?s)."):
        train_prior(config)
    killer.join()
    steps_done = (config.folder / "curves" / "unet.csv").read_text().splitlines()
    assert not (config.folder / "prior" / "unet").exists()

    train_prior(config)
    resumed = (config.folder / "curves" / "unet.csv").read_text().splitlines()
    assert len(steps_done) < len(resumed) == 8
    file = "unet/diffusion_pytorch_model.safetensors"
    whole, continued = load_file(trained.folder / "prior" / file), load_file(config.folder / "prior" / file)
    for name, weight in whole.items():
        torch.testing.assert_close(continued[name], weight, atol=2e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [{}, {"solver": "none", "target_decay": 0.9, "metric": "squared", "levels": "uniform"}]
)
def test_a_prior_is_distilled(trained: TrainingConfig, ray_here: None, tmp_path: Path, form: dict[str, object]) -> None:
    teacher = str(trained.folder / "prior")
    spec = {
        "teacher": teacher,
        "steps": 8,
        "batch_size_per_worker": 4,
        "eval_images": 4,
        "eval_every": 4,
        "intervals": [2, 4],
    }
    tree = {"name": "student", "output": str(tmp_path), "data": TINY["data"], "compute": TINY["compute"]}
    config = parse_config({**tree, "distillation": {**spec, **form}})
    folder = train_prior(config)
    prior = load_prior({"prior": "consistency", "path": str(folder)})
    before = load_prior({"prior": "latent", "path": teacher})
    x = portraits(4, 32)
    torch.testing.assert_close(prior.encode(x), before.encode(x))
    assert prior.schedule == before.schedule
    assert prior.denoise(torch.randn(2, *prior.latent_shape), prior.schedule.thousandth(1000)).isfinite().all()
    assert parse_config(yaml.safe_load((config.folder / "config.yaml").read_text())) == config
    header, *rows = (config.folder / "curves" / "unet.csv").read_text().splitlines()
    assert "flow_mse_from_noise" in header
    assert [int(row.split(",")[0]) for row in rows] == [0, 4, 8]
    assert (
        evaluate_prior.main([str(folder), "--samples", "8", "--held-out", "8", "--out", str(tmp_path / "figures")]) == 0
    )
    figures = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert {f"fd_prior_samples_to_test_{calls}_calls" for calls in (1, 2, 4)} < figures.keys()


@pytest.mark.slow
def test_another_configuration_does_not_continue_a_run(trained: TrainingConfig) -> None:
    tree = yaml.safe_load((trained.folder / "config.yaml").read_text())
    tree["unet"]["steps"] = 99
    with pytest.raises(RequestError, match=r"^unet: .* holds a run begun with other values"):
        train_prior(parse_config(tree))
    student = {"name": tree["name"], "output": tree["output"], "data": tree["data"], "distillation": {"steps": 3}}
    with pytest.raises(RequestError, match=r"^distillation: .* holds a run begun with other values"):
        train_prior(parse_config(student))


def test_the_schedule_is_that_of_the_shipped_prior() -> None:
    shipped = load_prior({"prior": "latent", "path": "builtin:portraits-64"}).schedule
    ours = noise_scheduler(UNet()).alphas_cumprod
    assert shipped.level(500).alpha == pytest.approx(float(ours[500].sqrt()), rel=1e-5)

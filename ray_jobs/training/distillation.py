"""Stage 2 in another way: the denoiser of a finished prior, distilled into a consistency function."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from diffusers import AutoencoderKL, LCMScheduler, UNet2DModel
from ray.train.torch import prepare_model
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from ipsolve.learning.consistency import Estimate, Grid, consistency_loss, draw_levels, num_intervals, read_rows
from ipsolve.priors import DiscreteSchedule
from ipsolve.priors.networks.diffusers_folder import network_config, read_config, resolve
from ipsolve.priors.networks.own import UNETS
from ipsolve.priors.networks.prediction import CONSISTENCY, LatentConsistencyFunction, Prediction, Velocity
from ipsolve.priors.networks.schedulers import FILE, load_schedule
from ipsolve.priors.networks.unet import Execution, UNetPrior, load_unet, unet_state_shape
from ipsolve.requests.errors import RequestError
from ray_jobs.training.config import Distillation, TrainingConfig
from ray_jobs.training.export import save_half
from ray_jobs.training.loop import Stage, Stateful, autocast, generator, prepare_worker, run
from ray_jobs.training.networks import FACTOR
from ray_jobs.training.optimisation import learning_rate_factor, moving_average
from ray_jobs.training.sampling import CALLS, consistency_states, contact_sheet
from ray_jobs.training.shards import Shards, batch_rows
from ray_jobs.training.tracking import Tracker

_SHEET_IMAGES = 8
_FLOW_STEPS = 40  # of Heun's rule, for where the flow of the teacher ends


class DistillationLoss(nn.Module):
    """The loss of a batch of states; the number of levels grows with the step."""

    def __init__(
        self, teacher: nn.Module, prediction: Prediction, config: TrainingConfig, device: torch.device
    ) -> None:
        super().__init__()
        self.config, self.spec, self.device, self.prediction = config, spec_of(config), device, prediction
        self.teacher = teacher.requires_grad_(False)
        self.student = copy.deepcopy(teacher).requires_grad_(True)
        self.target = moving_average(self.student, self.spec.target_decay) if self.spec.target_decay else None

    def estimate(self, unet: nn.Module, grid: Grid, prediction: Prediction) -> Estimate:
        """Return a network as the estimate of x_0 at levels of a grid."""

        def run(x: Tensor, n: Tensor) -> Tensor:
            with autocast(self.config.compute, self.device):
                out = unet(x, grid.time[n].to(x.dtype)).sample
            return read_rows(prediction, grid, x, out.float(), n)

        return run

    def forward(self, z: Tensor, noise: Tensor, n: Tensor, grid: Grid) -> Tensor:
        spec, function = self.spec, LatentConsistencyFunction(self.prediction)
        target = self.student if self.target is None else self.target.module
        losses = consistency_loss(
            self.estimate(self.student, grid, function),
            self.estimate(target, grid, function),
            None if spec.solver == "none" else self.estimate(self.teacher, grid, self.prediction),
            grid,
            z,
            noise,
            n,
            metric=spec.metric,
            heun=spec.solver == "heun",
            weighted=spec.weighted,
        )
        return losses.mean()


class DistillationStage(Stage):
    name = "unet"

    def __init__(self, config: TrainingConfig, train: Shards, val: Shards, vae: Path | None) -> None:
        spec = self.spec = spec_of(config)
        context = ray.train.get_context()
        self.config, self.train, self.vae_folder = config, train, vae
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.batch = spec.batch_size_per_worker
        self.images_per_step = self.batch * self.world
        self.steps, self.eval_every, self.checkpoint_every = spec.steps, spec.eval_every, spec.checkpoint_every
        self.device = prepare_worker(config.compute)

        unet, self.schedule, self.prediction = load_unet(resolve(spec.teacher), torch.float32)
        self.loss = DistillationLoss(unet, self.prediction, config, self.device).to(self.device)
        self.optimiser = torch.optim.RAdam(self.loss.student.parameters(), lr=spec.learning_rate)
        self.average = moving_average(self.loss.student, spec.ema_decay)
        self.parallel = prepare_model(self.loss)
        self.grids: dict[int, Grid] = {}
        if self.rank == 0:
            self.val = self._flows(val[np.arange(min(len(val), spec.eval_images))].float().to(self.device))

    def _grid(self, intervals: int) -> Grid:
        if intervals not in self.grids:
            self.grids[intervals] = Grid.of(self.schedule, intervals).to(self.device)
        return self.grids[intervals]

    def train_step(self, step: int) -> dict[str, float]:
        spec = self.spec
        grid = self._grid(num_intervals(step, spec.steps, *spec.intervals))
        rows = batch_rows(step, self.images_per_step, len(self.train), self.config.seed)
        z = self.train[rows[self.rank :: self.world]].float().to(self.device)
        draws = generator(self.device, self.config.seed, "distillation", step, self.rank)
        # one number in each of as many equal intervals as there are images in the global batch
        places = torch.arange(self.batch, device=self.device) * self.world + self.rank
        uniform = (places + torch.rand(self.batch, generator=draws, device=self.device)) / self.images_per_step
        noise = torch.randn(z.shape, generator=draws, device=self.device)
        rate = spec.learning_rate * learning_rate_factor(step, self.steps, spec.warmup_steps, spec.constant_share)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.parallel(z, noise, draw_levels(grid, uniform, spec.levels == "lognormal"), grid)
        loss.backward()
        nn.utils.clip_grad_norm_(self.loss.student.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.loss.student)
        if self.loss.target is not None:
            self.loss.target.update_parameters(self.loss.student)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def _flows(self, z: Tensor) -> list[tuple[Tensor, int, Tensor]]:
        """Return states of held-out images at the noisiest level and half way, and where the teacher takes them."""
        grid = self._grid(_FLOW_STEPS)
        teacher = self.loss.estimate(self.loss.teacher, grid, self.prediction)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5)).to(self.device)
        found = []
        for start in (_FLOW_STEPS, _FLOW_STEPS // 2):
            x = begin = grid.noisy(z, noise, torch.full((len(z),), start, device=self.device))
            for n in reversed(range(start)):
                x = grid.flow(teacher, x, torch.full((len(z),), n, device=self.device), heun=True)
            found.append((begin, start, x))
        return found

    @torch.no_grad()
    def evaluate(self, step: int, tracker: Tracker) -> dict[str, float]:
        student = self.loss.estimate(
            self.average.module, self._grid(_FLOW_STEPS), LatentConsistencyFunction(self.prediction)
        )
        errors = [
            float((student(x, torch.full((len(x),), n, device=self.device)) - end).square().mean())
            for x, n, end in self.val
        ]
        if step and (step % self.spec.samples_every == 0 or step == self.steps):
            self._draw_samples(step, tracker)
        return {"flow_mse_from_noise": errors[0], "flow_mse_half_way": errors[1]}

    def _draw_samples(self, step: int, tracker: Tracker) -> None:
        function = LatentConsistencyFunction(self.prediction)
        prior = UNetPrior(copy.deepcopy(self.average.module), self.schedule, function, Execution(self.device))
        shape = tuple(self.train[np.arange(1)].shape[1:])
        states = torch.cat(
            [consistency_states(prior, shape, _SHEET_IMAGES, calls, self.config.seed) for calls in CALLS]
        )
        if self.vae_folder is None:
            images = pixel_shuffle(states, FACTOR)
        else:
            vae: Any = AutoencoderKL.from_pretrained(self.vae_folder, use_safetensors=True).to(self.device)
            images = vae.decode(states).sample
        path = self.config.folder / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(images, columns=_SHEET_IMAGES).save(path)
        tracker.artifact(path, "samples")

    def stateful(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"student": self.loss.student, "average": self.average}
        parts["optimiser"] = self.optimiser
        return parts if self.loss.target is None else {**parts, "target": self.loss.target}

    def export(self, folder: Path) -> None:
        network: Any = self.average.module
        network.save_pretrained(folder)


def spec_of(config: TrainingConfig) -> Distillation:
    """Return the section of a configuration that has one."""
    assert config.distillation is not None
    return config.distillation


def check_teacher(config: TrainingConfig) -> None:
    """Raise RequestError unless the teacher of a configuration can be distilled, without loading its weights."""
    where, path = "distillation.teacher", spec_of(config).teacher
    folder = resolve(path)
    name = network_config(folder, "unet", UNETS)["_class_name"]
    if name != "UNet2DModel":
        raise RequestError(where, f"{path} has a {name}; allowed: a UNet2DModel")
    schedule, prediction = load_schedule(folder)
    if not isinstance(schedule, DiscreteSchedule) or isinstance(prediction, (Velocity, *CONSISTENCY)):
        raise RequestError(where, f"{path} is no diffusion model on a table of times (DDPM, DDIM, ...)")
    vae = folder / "vae"
    space = "latent" if vae.is_dir() else "pixel"
    if config.space != space:
        raise RequestError("space", f"is {config.space}, and {path} is of the space {space}")
    if vae.is_dir():
        network_config(folder, "vae", ("AutoencoderKL",))
    channels, height, width = unet_state_shape(folder)
    expected = config.data.size // FACTOR
    if (height, width) != (expected, expected) or (space == "pixel" and channels != 3 * FACTOR**2):
        what = f"has states of {channels} x {height} x {width}, those of images of data.size {config.data.size}"
        raise RequestError(where, f"{path} {what} are {expected} x {expected}")


def export_student(trained: Path, teacher: Path, prior: Path) -> None:
    """Write the folder of the consistency prior: the student, the autoencoder of the teacher, and its table."""
    config = read_config(teacher, "scheduler", FILE)
    known = LCMScheduler().config  # the settings of other samplers stay behind
    table = {key: value for key, value in config.items() if key in known and not key.startswith("_")}
    LCMScheduler(**table).save_pretrained(prior / "scheduler")
    if (teacher / "vae").is_dir():
        unfinished = prior / "vae.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(teacher / "vae", unfinished)
        shutil.rmtree(prior / "vae", ignore_errors=True)
        unfinished.rename(prior / "vae")
    save_half(UNet2DModel.from_pretrained(trained, use_safetensors=True), prior / "unet")


def distil_unet(job: dict[str, Any]) -> None:
    """Be one Ray Train worker of this stage; ``job`` as of :func:`ray_jobs.training.diffusion.train_unet`."""
    config, first = job["config"], ray.train.get_context().get_world_rank() == 0
    stage = DistillationStage(config, Shards(job["train"]), Shards(job["val"]), job["vae"])
    run(stage, Tracker.join(job["tracker"], first), config.folder)

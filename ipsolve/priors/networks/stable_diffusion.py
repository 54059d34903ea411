"""Latent diffusion that is told a text: Stable Diffusion 1, 2, XL (Rombach et al. 2022, Podell et al. 2023) and 3."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.priors.base import Shape
from ipsolve.priors.networks import sd3
from ipsolve.priors.networks.autoencoders import AUTOENCODERS, check_autoencoder, image_shape
from ipsolve.priors.networks.diffusers_folder import (
    check_network,
    fingerprint,
    load_network,
    network_config,
    read_config,
    resolve,
    setting,
)
from ipsolve.priors.networks.hub import PriorPath
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.networks.summaries import summary_of
from ipsolve.priors.networks.text_encoders import CLIP, PROJECTED, Combine, TextEncoder, Texts, for_unet
from ipsolve.priors.networks.text_prior import TWO_TEXTS, Sd3Prior, TextPrior
from ipsolve.priors.networks.unet import Execution, Precision, unet_state_shape
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError

_UNET = ("UNet2DConditionModel",)


class _Layout(NamedTuple):
    """Which network denoises in a folder, and what its prior is."""

    component: str
    allowed: tuple[str, ...]
    prior: type[TextPrior]

    def state_shape(self, folder: Path) -> Shape:
        return unet_state_shape(folder, self.allowed, self.component)

    def tokens(self, folder: Path) -> int | None:
        return sd3.tokens_of(folder) if self.component == sd3.COMPONENT else None

    def combine(self, folder: Path) -> Combine:
        return sd3.combine_of(folder) if self.component == sd3.COMPONENT else for_unet


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class StableDiffusionSpec(PriorSpec):
    """A folder in the layout of Stable Diffusion 1, 2, XL or 3.

    That is ``vae/``, ``unet/`` (UNet2DConditionModel), ``scheduler/``, ``text_encoder/`` and ``tokenizer/``, of XL also
    ``text_encoder_2/`` and ``tokenizer_2/``; of 3 ``transformer/`` (SD3Transformer2DModel) in place of the UNet, and
    ``text_encoder_3/`` (T5), which may be absent. It needs transformers: the extra ``text``.

    Args:
        path: the folder, or ``hf:ORG/NAME``.
        prompt: what all images show.
        negative_prompt: what guidance leads away from; null: the empty text, or what the folder says of it.
        guidance_scale: 1 is the prior given the prompt. Other scales take two rows of the network for each image.
        variant: which of several weights of a network are read, such as ``fp16`` or ``non_ema``.
        scaling_factor: the factor between encoder and UNet; None: that of the autoencoder.
        compile: whether the networks go through torch.compile.
        channels_last: memory layout of the networks.
    """

    name: ClassVar[str] = "stable_diffusion"
    path: PriorPath
    prompt: str = ""
    negative_prompt: str | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    variant: str | None = None
    scaling_factor: Annotated[float, Field(gt=0)] | None = None
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        folder, layout = self._folder()
        config = network_config(folder, "vae", AUTOENCODERS)
        state, where = layout.state_shape(folder), f"prior.path: {folder / 'vae'}"
        shape = image_shape(config, state, where, layout.component)
        return summary_of(folder, shape, True, TWO_TEXTS, layout.tokens(folder))

    def fingerprint(self) -> str:
        folder, layout = self._folder()
        components = [p.name for p in sorted(folder.glob("t*")) if p.name.startswith(("text_encoder", "tokenizer"))]
        files = fingerprint(folder, ("vae", layout.component, "scheduler", *components), self.variant)
        asked = (self.scaling_factor, self.prompt, self.negative_prompt, self.guidance_scale, _zero_negative(folder))
        return hashlib.sha256(f"{files} {asked}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        folder, layout = self._folder()
        for encoder in self._encoders(folder, layout):
            encoder.check()
        check_network(folder, layout.component, layout.allowed, self.variant)
        check_autoencoder(folder, "vae", layout.state_shape(folder), self.variant)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> TextPrior:
        self.summary()
        folder, layout = self._folder()
        encoders = self._encoders(folder, layout)
        lean = layout.component == sd3.COMPONENT
        execution = Execution(device, precision, self.compile, self.channels_last, lean)
        texts = Texts(encoders, execution, layout.combine(folder))
        texts([self.prompt, self.negative_prompt or ""])
        texts.release()  # until an image has a prompt of its own: of 3 they are as large as the denoiser
        autoencoder = load_network(folder, "vae", AUTOENCODERS, execution.dtype, self.variant)
        network = load_network(folder, layout.component, layout.allowed, execution.weights, self.variant)
        return layout.prior(
            network,
            autoencoder,
            *load_schedule(folder, layout.tokens(folder)),
            execution,
            texts=texts,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            zero_negative=_zero_negative(folder),
            scaling_factor=self.scaling_factor,
        )

    def _folder(self) -> tuple[Path, _Layout]:
        folder = resolve(self.path, self.variant)
        if (folder / "unet").is_dir() or not (folder / sd3.COMPONENT).is_dir():
            return folder, _Layout("unet", _UNET, TextPrior)
        name = read_config(folder, sd3.COMPONENT).get("_class_name")
        if name == "FluxTransformer2DModel":
            raise RequestError("prior.prior", f"{folder} is in the layout of FLUX; allowed: flux")
        if name != sd3.CLASS:
            raise RequestError(
                f"prior.path: {folder} has a transformer ({name}); supported: a unet (Stable Diffusion 1, 2, XL), "
                f"{sd3.CLASS} (3)"
            )
        return folder, _Layout(sd3.COMPONENT, (sd3.CLASS,), Sd3Prior)

    def _encoders(self, folder: Path, layout: _Layout) -> list[TextEncoder]:
        """Return the encoders; RequestError where the denoiser is not told what they say, or a text is too long."""
        if layout.prior is Sd3Prior:
            encoders, check = sd3.encoders_of(folder, self.variant), sd3.check_conditions
        else:
            encoders, check = _encoders_of(folder, self.variant), _check_conditions
        for encoder in encoders:
            encoder.check_length(self.prompt, "prior.prompt")
            encoder.check_length(self.negative_prompt or "", "prior.negative_prompt")
        check(folder, encoders)
        return encoders


def _encoders_of(folder: Path, variant: str | None) -> list[TextEncoder]:
    first = TextEncoder.of(folder, 1, variant, (CLIP, PROJECTED))
    if not (folder / "text_encoder_2").is_dir():
        return [first]
    # the projection of the second one of SDXL is told to the UNet too
    return [first, TextEncoder.of(folder, 2, variant, (PROJECTED,))]


def _check_conditions(folder: Path, encoders: Sequence[TextEncoder]) -> None:
    """Raise RequestError unless the UNet is told what the encoders say, and nothing else."""
    config = network_config(folder, "unet", _UNET)
    where = f"prior.path: {folder / 'unet' / 'config.json'}"
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if setting(config, key) is not None:
            raise RequestError(
                f"{where}: {key} is {setting(config, key)!r}: conditions beside a text are not supported"
            )
    width = sum(int(encoder.config.hidden_size) for encoder in encoders)
    expected = setting(config, "cross_attention_dim")
    if any(each != width for each in (expected if isinstance(expected, list | tuple) else [expected])):
        raise RequestError(f"{where}: cross_attention_dim is {expected}, the text encoders give {width}")
    if (added := setting(config, "addition_embed_type")) != (None if len(encoders) == 1 else "text_time"):
        raise RequestError(f"{where}: addition_embed_type {added!r} with {len(encoders)} text encoder(s)")
    if added == "text_time":
        numbers = int(encoders[1].config.projection_dim) + 6 * int(setting(config, "addition_time_embed_dim"))
        if (takes := setting(config, "projection_class_embeddings_input_dim")) != numbers:
            raise RequestError(
                f"{where}: projection_class_embeddings_input_dim is {takes}, text and size are {numbers} numbers"
            )


def _zero_negative(folder: Path) -> bool:
    """Return whether no negative prompt is the embedding 0: of SDXL, unless its pipeline says otherwise."""
    if not (folder / "text_encoder_2").is_dir() or not (folder / "unet").is_dir():
        return False
    index = read_config(folder, "", "model_index.json") if (folder / "model_index.json").is_file() else {}
    return bool(index.get("force_zeros_for_empty_prompt", True))

"""Latent diffusion that is told a text: Stable Diffusion 1, 2 and XL (Rombach et al. 2022, Podell et al. 2023)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.priors.context import Context
from ipsolve.priors.networks.autoencoders import AUTOENCODERS, check_autoencoder, image_shape
from ipsolve.priors.networks.diffusers_folder import (
    fingerprint,
    load_network,
    network_config,
    read_config,
    resolve,
    setting,
)
from ipsolve.priors.networks.hub import PriorPath
from ipsolve.priors.networks.latent import LatentPrior
from ipsolve.priors.networks.summaries import summary_of
from ipsolve.priors.networks.text_encoders import Embedding, TextEncoder, Texts
from ipsolve.priors.networks.unet import Execution, Precision, check_unet, load_unet, unet_state_shape
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError

_UNET = ("UNet2DConditionModel",)
_TEXT = frozenset({"text"})


class TextPrior(LatentPrior):
    """A latent prior whose denoiser is told a text, with classifier-free guidance.

    The output of the network is out(negative) + g (out(prompt) - out(negative)) (Ho & Salimans 2022, arXiv 2207.12598):
    g = 1 is the prior given the prompt and costs one row of the network for each image; any other g costs two, in one
    call, and is no longer the posterior mean of a density.

    Args:
        texts: the encoders.
        prompt, negative_prompt: of all images, until :meth:`conditioned`; a negative prompt of None is the empty text,
            or for SDXL, where ``zero_negative``, the embedding 0.
        guidance_scale: g.
        the others: see :class:`LatentPrior`.
    """

    name = "stable_diffusion"

    def __init__(
        self,
        *networks: Any,
        texts: Texts,
        prompt: str = "",
        negative_prompt: str | None = None,
        guidance_scale: float = 1.0,
        zero_negative: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*networks, **options)
        self.abilities |= _TEXT
        self.texts = texts
        self.guidance_scale = guidance_scale
        self.own_prompt = prompt
        self.prompt = texts([prompt])
        zero = negative_prompt is None and zero_negative
        self.negative_prompt = self.prompt.zeros() if zero else texts([negative_prompt or ""])
        height, width = self.image_shape[1:]
        # SDXL is told the size of the original, the corner of the crop, and the size that it is to be
        self._size = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.execution.dtype).to(
            self.execution.device
        )

    def conditioned(self, context: Context) -> Self:
        if context.label is not None:
            raise TypeError(f"prior {self.name} cannot be told a label")
        told = copy.copy(self)
        if context.prompt is not None:
            told.prompt = self.texts([self.own_prompt if text is None else text for text in context.prompt])
        if context.negative_prompt is not None:
            told.negative_prompt = self.texts(context.negative_prompt)
        return told

    def select(self, rows: Tensor) -> Self:
        chosen = copy.copy(self)
        chosen.prompt, chosen.negative_prompt = self.prompt.select(rows), self.negative_prompt.select(rows)
        return chosen

    def network(self, x: Tensor, time: Tensor) -> Tensor:
        count, g = len(x), self.guidance_scale
        if g in (0, 1):
            return self._told(x, time, (self.prompt if g else self.negative_prompt).rows(count))
        both = Embedding.together([self.negative_prompt.rows(count), self.prompt.rows(count)])
        without, given = self._told(torch.cat([x, x]), torch.cat([time, time]), both).chunk(2)
        return without + g * (given - without)

    def _told(self, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
        options: dict[str, Any] = {}
        if text.pooled is not None:
            options["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": self._size.expand(len(x), -1)}
        return self.unet(x, time, text.tokens, return_dict=False, **options)[0]  # type: ignore[no-any-return]


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class StableDiffusionSpec(PriorSpec):
    """A folder in the layout of Stable Diffusion 1, 2 or XL.

    That is ``vae/``, ``unet/`` (UNet2DConditionModel), ``scheduler/``, ``text_encoder/`` and ``tokenizer/``, of XL also
    ``text_encoder_2/`` and ``tokenizer_2/``. It needs transformers: the extra ``text``.

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
        folder = self._folder()
        config = network_config(folder, "vae", AUTOENCODERS)
        shape = image_shape(config, unet_state_shape(folder, _UNET), f"prior.path: {folder / 'vae'}")
        return summary_of(folder, shape, True, _TEXT)

    def fingerprint(self) -> str:
        folder = self._folder()
        components = [p.name for p in sorted(folder.glob("t*")) if p.name.startswith(("text_encoder", "tokenizer"))]
        files = fingerprint(folder, ("vae", "unet", "scheduler", *components), self.variant)
        asked = (self.scaling_factor, self.prompt, self.negative_prompt, self.guidance_scale, _zero_negative(folder))
        return hashlib.sha256(f"{files} {asked}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        folder = self._folder()
        encoders = self._encoders(folder)
        _check_conditions(folder, encoders)
        for encoder in encoders:
            encoder.check()
        check_unet(folder, self.variant, _UNET)
        check_autoencoder(folder, "vae", unet_state_shape(folder, _UNET), self.variant)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> TextPrior:
        self.summary()
        folder = self._folder()
        encoders = self._encoders(folder)
        _check_conditions(folder, encoders)
        execution = Execution(device, precision, self.compile, self.channels_last)
        texts = Texts(encoders, execution)
        autoencoder = load_network(folder, "vae", AUTOENCODERS, execution.dtype, self.variant)
        unet, schedule, prediction = load_unet(folder, execution.dtype, self.variant, _UNET)
        prior = TextPrior(
            unet,
            autoencoder,
            schedule,
            prediction,
            execution,
            texts=texts,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            zero_negative=_zero_negative(folder),
            scaling_factor=self.scaling_factor,
        )
        texts.release()  # until an image has a prompt of its own
        return prior

    def _folder(self) -> Path:
        folder = resolve(self.path, self.variant)
        if not (folder / "unet").is_dir() and (folder / "transformer").is_dir():
            name = read_config(folder, "transformer").get("_class_name")
            raise RequestError(f"prior.path: {folder} has a transformer ({name}); supported: a unet (Stable Diffusion)")
        return folder

    def _encoders(self, folder: Path) -> list[TextEncoder]:
        numbers = (1, 2) if (folder / "text_encoder_2").is_dir() else (1,)
        encoders = [TextEncoder.of(folder, number, self.variant) for number in numbers]
        for encoder in encoders:
            encoder.check_length(self.prompt, "prior.prompt")
            encoder.check_length(self.negative_prompt or "", "prior.negative_prompt")
        return encoders


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
    if not (folder / "text_encoder_2").is_dir():
        return False
    index = read_config(folder, "", "model_index.json") if (folder / "model_index.json").is_file() else {}
    return bool(index.get("force_zeros_for_empty_prompt", True))

"""FLUX.1 (Black Forest Labs 2024): a flow of latents by a transformer that is told a text, in the layout of diffusers.

The transformer reads 2 x 2 patches of a latent as the entries of a sequence, each with its place. Tokens are those of
T5, the pooled text is that of CLIP. Where it was distilled from guidance (FLUX.1-dev), the scale is one of its inputs:
one row of the network for each image whatever the scale, and no negative prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.autoencoders import AUTOENCODERS, check_autoencoder, image_shape
from ipsolve.priors.networks.diffusers_folder import (
    check_network,
    fingerprint,
    load_network,
    network_config,
    resolve,
    setting,
)
from ipsolve.priors.networks.hub import PriorPath
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.networks.summaries import summary_of
from ipsolve.priors.networks.text_encoders import CLIP, T5, Embedding, TextEncoder, Texts
from ipsolve.priors.networks.text_prior import TEXT, PromptedPrior
from ipsolve.priors.networks.unet import Execution, Precision
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.requests.errors import RequestError

_COMPONENT, _ALLOWED = "transformer", ("FluxTransformer2DModel",)
_GUIDANCE = 3.5  # of FLUX.1-dev in the pipeline of diffusers
_THOUSAND = 1000  # the transformer reads t in [0, 1], the prior's time is that of the scheduler


class FluxPrior(PromptedPrior):
    """A prior in the layout of FLUX.1.

    Args:
        guidance_scale: what the transformer is told; None for one that is not told any.
        the others: see :class:`PromptedPrior`.
    """

    name = "flux"

    def __init__(self, *networks: Any, guidance_scale: float | None, **options: Any) -> None:
        super().__init__(*networks, **options)
        self.guidance_scale = guidance_scale
        _, height, width = self.latent_shape
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
        self._places = places.to(self.execution.device, self.execution.dtype)

    def network(self, x: Tensor, time: Tensor) -> Tensor:
        text = self.prompt.rows(len(x))
        patches = pixel_unshuffle(x, 2)  # (B, 4C, H / 2, W / 2), the channels in the order of the pipeline's packing
        out = self.unet(
            patches.flatten(2).mT,
            timestep=time / _THOUSAND,
            guidance=None if self.guidance_scale is None else torch.full_like(time, self.guidance_scale),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            txt_ids=self._places.new_zeros(text.tokens.shape[1], 3),
            img_ids=self._places,
            return_dict=False,
        )[0]
        return pixel_shuffle(out.mT.unflatten(2, patches.shape[2:]), 2)


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FluxSpec(PriorSpec):
    """A folder in the layout of FLUX.1.

    That is ``vae/``, ``transformer/`` (FluxTransformer2DModel), ``scheduler/``, ``text_encoder/`` (CLIP),
    ``text_encoder_2/`` (T5) and a ``tokenizer/`` and ``tokenizer_2/``. It needs transformers: the extra ``text``.

    Args:
        path: the folder, or ``hf:ORG/NAME``.
        prompt: what all images show.
        guidance_scale: what a transformer that was distilled from guidance is told; null: 3.5, the default of the
            pipeline, and for one that was not (FLUX.1-schnell) the only value.
        size: height and width of images, in pixels: nothing in the folder says it.
        max_sequence_length: tokens of T5 that a text is padded to; FLUX.1-schnell was published with 256.
        variant: which of several weights of a network are read.
        scaling_factor: the factor between encoder and transformer; None: that of the autoencoder.
        compile: whether the networks go through torch.compile.
        channels_last: memory layout of the networks.
    """

    name: ClassVar[str] = "flux"
    path: PriorPath
    prompt: str = ""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    size: Annotated[int, Field(ge=1)] = 1024
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = 512
    variant: str | None = None
    scaling_factor: Annotated[float, Field(gt=0)] | None = None
    compile: bool = False
    channels_last: bool = True

    def summary(self) -> PriorSummary:
        folder = resolve(self.path, self.variant)
        state = self._state_shape(folder)
        return summary_of(folder, (3, self.size, self.size), True, TEXT, _tokens(state))

    def fingerprint(self) -> str:
        folder = resolve(self.path, self.variant)
        words = [f"{kind}{suffix}" for kind in ("text_encoder", "tokenizer") for suffix in ("", "_2")]
        files = fingerprint(folder, ("vae", _COMPONENT, "scheduler", *words), self.variant)
        asked = (self.scaling_factor, self.prompt, self._guidance(folder), self.size, self.max_sequence_length)
        return hashlib.sha256(f"{files} {asked}".encode()).hexdigest()

    def check(self) -> None:
        self.summary()
        folder = resolve(self.path, self.variant)
        self._guidance(folder)
        for encoder in self._encoders(folder):
            encoder.check()
        check_network(folder, _COMPONENT, _ALLOWED, self.variant)
        check_autoencoder(folder, "vae", self._state_shape(folder), self.variant)

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> FluxPrior:
        self.summary()
        folder = resolve(self.path, self.variant)
        guidance, encoders, state = self._guidance(folder), self._encoders(folder), self._state_shape(folder)
        execution = Execution(device, precision, self.compile, self.channels_last, lean=True)
        texts = Texts(encoders, execution, _combine)
        texts([self.prompt])
        texts.release()  # T5 is half as large as the denoiser, and not needed until an image has a prompt of its own
        autoencoder = load_network(folder, "vae", AUTOENCODERS, execution.dtype, self.variant)
        network = load_network(folder, _COMPONENT, _ALLOWED, execution.weights, self.variant)
        return FluxPrior(
            network,
            autoencoder,
            *load_schedule(folder, _tokens(state)),
            execution,
            texts=texts,
            prompt=self.prompt,
            guidance_scale=guidance,
            scaling_factor=self.scaling_factor,
            latent_shape=state,
        )

    def _guidance(self, folder: Path) -> float | None:
        """Return what the transformer is told; RequestError for a scale where it is told none."""
        if setting(network_config(folder, _COMPONENT, _ALLOWED), "guidance_embeds"):
            return _GUIDANCE if self.guidance_scale is None else self.guidance_scale
        if self.guidance_scale is not None:
            raise RequestError("prior.guidance_scale", f"{folder} was not distilled from guidance; allowed: null")
        return None

    def _state_shape(self, folder: Path) -> Shape:
        """Return (C, H, W) of the latents of images of the size that is asked for."""
        config = network_config(folder, _COMPONENT, _ALLOWED)
        where = f"prior.path: {folder / _COMPONENT / 'config.json'}"
        channels = int(setting(config, "in_channels"))
        out, patch = setting(config, "out_channels") or channels, setting(config, "patch_size")
        if (out, patch) != (channels, 1) or channels % 4:
            raise RequestError(
                f"{where}: in_channels {channels}, out_channels {out}, patch_size {patch}; allowed: as many channels "
                "out as in, a multiple of 4, and patch_size 1"
            )
        autoencoder = network_config(folder, "vae", AUTOENCODERS)
        images = image_shape(autoencoder, (channels // 4, 1, 1), f"prior.path: {folder / 'vae'}", _COMPONENT)
        factor = images[1]
        if self.size % (2 * factor):
            raise RequestError("prior.size", f"must be a multiple of {2 * factor} (got {self.size})")
        return channels // 4, self.size // factor, self.size // factor

    def _encoders(self, folder: Path) -> list[TextEncoder]:
        """Return the encoders; RequestError where the transformer is not told what they say, or for a text too long."""
        encoders = [
            TextEncoder.of(folder, 1, self.variant, (CLIP,)),
            TextEncoder.of(folder, 2, self.variant, (T5,), self.max_sequence_length),
        ]
        for encoder in encoders:
            encoder.check_length(self.prompt, "prior.prompt")
        config = network_config(folder, _COMPONENT, _ALLOWED)
        where = f"prior.path: {folder / _COMPONENT / 'config.json'}"
        for encoder, key in zip(encoders, ("pooled_projection_dim", "joint_attention_dim"), strict=True):
            if (takes := int(setting(config, key))) != (given := int(encoder.config.hidden_size)):
                raise RequestError(f"{where}: {key} is {takes}, {encoder.component} gives {given}")
        axes, heads = (setting(config, key) for key in ("axes_dims_rope", "attention_head_dim"))
        if len(axes) != 3 or sum(axes) != heads:
            raise RequestError(f"{where}: axes_dims_rope {list(axes)} are not 3 that sum to attention_head_dim {heads}")
        return encoders


def _tokens(latent_shape: Shape) -> int:
    return (latent_shape[1] // 2) * (latent_shape[2] // 2)


def _combine(outputs: Sequence[Any]) -> Embedding:
    """Return what the transformer is told: the tokens of T5, and CLIP's pooled text."""
    return Embedding(outputs[1].last_hidden_state, outputs[0].pooler_output)

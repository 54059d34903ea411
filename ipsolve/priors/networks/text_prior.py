"""Latent priors whose denoiser is told a text, and classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from ipsolve.priors.context import Context
from ipsolve.priors.networks.latent import LatentPrior
from ipsolve.priors.networks.text_encoders import Embedding, Texts

TEXT = frozenset({"text"})
TWO_TEXTS = TEXT | {"negative_text"}


class PromptedPrior(LatentPrior):
    """A latent prior whose denoiser is told a text.

    Args:
        texts: the encoders.
        prompt: of all images, until :meth:`conditioned`.
        the others: see :class:`LatentPrior`.
    """

    def __init__(self, *networks: Any, texts: Texts, prompt: str = "", **options: Any) -> None:
        super().__init__(*networks, **options)
        # guidance mixes two outputs, of which no variance of a step is left
        self.abilities = (self.abilities | TEXT) - {"learned_variance"}
        self.texts = texts
        self.own_prompt = self.prompt = texts([prompt])

    def conditioned(self, context: Context) -> Self:
        if context.label is not None:
            raise TypeError(f"prior {self.name} cannot be told a label")
        if context.negative_prompt is not None and "negative_text" not in self.abilities:
            raise TypeError(f"prior {self.name} cannot be told a negative prompt")
        told = copy.copy(self)
        if context.prompt is not None:
            told.prompt = self._embedded(context.prompt, self.own_prompt)
        return told

    def select(self, rows: Tensor) -> Self:
        chosen = copy.copy(self)
        chosen.prompt = self.prompt.select(rows)
        return chosen

    def _embedded(self, given: Sequence[str | None], own: Embedding) -> Embedding:
        """Return the embeddings of texts; ``own`` in the place of None."""
        asked = [text for text in given if text is not None]
        if not asked:
            return own
        counted = accumulate(int(text is not None) for text in given)
        rows = [0 if text is None else number for number, text in zip(counted, given, strict=True)]
        return Embedding.together([own, self.texts(asked)]).select(torch.tensor(rows))


class TextPrior(PromptedPrior):
    """A prior that is told a text, with classifier-free guidance.

    The output of the network is out(negative) + g (out(prompt) - out(negative)) (Ho & Salimans 2022, arXiv 2207.12598):
    g = 1 is the prior given the prompt and costs one row of the network for each image; any other g costs two, in one
    call, and is no longer the posterior mean of a density.

    Args:
        texts, prompt: see :class:`PromptedPrior`.
        negative_prompt: of all images, until :meth:`conditioned`; None is the empty text, or for SDXL, where
            ``zero_negative``, the embedding 0.
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
        super().__init__(*networks, texts=texts, prompt=prompt, **options)
        self.abilities |= TWO_TEXTS
        self.guidance_scale = guidance_scale
        zero = negative_prompt is None and zero_negative
        self.own_negative = self.prompt.zeros() if zero else texts([negative_prompt or ""])
        self.negative_prompt = self.own_negative
        height, width = self.image_shape[1:]
        # SDXL is told the size of the original, the corner of the crop, and the size that it is to be
        self._size = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.execution.dtype).to(
            self.execution.device
        )

    def conditioned(self, context: Context) -> Self:
        told = super().conditioned(context)
        if context.negative_prompt is not None:
            told.negative_prompt = self._embedded(context.negative_prompt, self.own_negative)
        return told

    def select(self, rows: Tensor) -> Self:
        chosen = super().select(rows)
        chosen.negative_prompt = self.negative_prompt.select(rows)
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


class Sd3Prior(TextPrior):
    """Stable Diffusion 3: the denoiser is a transformer that is told tokens and a pooled text, and gives a velocity."""

    def _told(self, x: Tensor, time: Tensor, text: Embedding) -> Tensor:
        told = {"encoder_hidden_states": text.tokens, "pooled_projections": text.pooled}
        return self.unet(x, timestep=time, **told, return_dict=False)[0]  # type: ignore[no-any-return]

"""Texts as a denoiser reads them: the encoders of a folder, CLIP and T5, and what they make of a text.

transformers, the extra ``text``, has tokenizers and encoders; weights are read as all others are, by
:mod:`ipsolve.priors.networks.weight_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ipsolve.priors.context import per_row, select_entries
from ipsolve.priors.networks import weight_files
from ipsolve.priors.networks.diffusers_folder import fill, load_weights, read_config, require_fit
from ipsolve.priors.networks.unet import Execution
from ipsolve.requests.errors import RequestError

CLIP, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
MOST_KNOWN = 256  # embeddings that are kept: each image of a set may have words of its own
_BASE = "text_model."  # before the names of some versions of transformers, and of published files


class Embedding(NamedTuple):
    """What n texts are to a denoiser: ``tokens``, (n, length, width), and but for SD 1 and 2 ``pooled``, (n, width)."""

    tokens: Tensor
    pooled: Tensor | None

    def rows(self, count: int) -> Embedding:
        """Return it for each row of a batch, those of one image side by side."""
        return Embedding(*(None if each is None else per_row(each, count) for each in self))  # type: ignore[arg-type]

    def select(self, images: Tensor) -> Embedding:
        """Return it for some images of a batch."""
        chosen = (None if each is None else select_entries(each, images) for each in self)
        return Embedding(*chosen)  # type: ignore[arg-type]

    @classmethod
    def together(cls, parts: Sequence[Embedding]) -> Embedding:
        """Return embeddings one after the other."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)

    def zeros(self) -> Embedding:
        """Return the embedding of no text at all."""
        return Embedding(torch.zeros_like(self.tokens), None if self.pooled is None else torch.zeros_like(self.pooled))


Combine = Callable[[Sequence[Any]], Embedding]  # from the outputs of the encoders


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, and the folder of its network.

    Attributes:
        allowed: the classes that the network may be of.
        longest: tokens that a text is padded to.
    """

    folder: Path
    component: str
    variant: str | None
    tokenizer: Any
    allowed: tuple[str, ...]
    longest: int

    @classmethod
    def of(
        cls, folder: Path, number: int, variant: str | None, allowed: tuple[str, ...], longest: int | None = None
    ) -> TextEncoder:
        """Return encoder ``number`` (1, 2, ...) of a folder, its weights not loaded; RequestError where it has none.

        Args:
            longest: tokens that a text is padded to; None: what the tokenizer says.
        """
        suffix = "" if number == 1 else f"_{number}"
        component, words = f"text_encoder{suffix}", f"tokenizer{suffix}"
        transformers = _transformers()
        read_config(folder, component)
        if not (folder / words / "tokenizer_config.json").is_file():
            raise RequestError(f"prior.path: {folder} has no {words}/tokenizer_config.json")
        kind = "T5" if T5 in allowed else "CLIP"
        try:
            if kind == "T5":
                tokenizer = transformers.T5TokenizerFast.from_pretrained(folder / words, local_files_only=True)
            else:
                tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / words, local_files_only=True)
        except Exception as error:  # whatever its files happen to lack
            reason = " ".join(str(error).split())[:200]
            raise RequestError(f"prior.path: {folder / words} is not a tokenizer of {kind}: {reason}") from None
        encoder = cls(folder, component, variant, tokenizer, allowed, longest or tokenizer.model_max_length)
        places = getattr(encoder.config, "max_position_embeddings", None)  # those of T5 are relative
        if places is not None and encoder.longest > int(places):
            raise RequestError(
                f"prior.path: {folder / words} gives {encoder.longest} tokens, {component} takes {places}"
            )
        return encoder

    @property
    def config(self) -> Any:
        """The configuration of the network."""
        config = read_config(self.folder, self.component)
        config.pop("_name_or_path", None)
        return getattr(_transformers(), "T5Config" if T5 in self.allowed else "CLIPTextConfig")(**config)

    @property
    def where(self) -> str:
        return f"prior.path: {self.folder / self.component}"

    def check(self) -> None:
        """Raise RequestError where :meth:`load` would; of the weights only names and shapes are read."""
        folder = self.folder / self.component
        found = weight_files.read(folder, lambda file, name: tuple(file.get_slice(name).get_shape()), self.variant)
        network = self._without_weights()
        require_fit(network, _names_of(network, found), self.where)

    def check_length(self, text: str, what: str) -> None:
        """Raise RequestError for a text that would be cut off; ``what`` it is, in the message."""
        if (length := len(self.tokenizer(text, verbose=False).input_ids)) > self.longest:
            raise RequestError(what, f"is {length} tokens long, {self.component} takes {self.longest}")

    def load(self, execution: Execution) -> Any:
        """Return the network."""
        network = self._without_weights()
        weights = load_weights(self.folder / self.component, execution.dtype, self.variant)
        fill(network, _names_of(network, weights), self.where)
        for module in network.modules():  # the only buffer that is not in the files: 0, 1, 2, ...
            if (places := getattr(module, "position_ids", None)) is not None:
                module.position_ids = torch.arange(places.shape[-1])[None]
        return nn.Module.to(network.eval().requires_grad_(False), execution.device)

    def tokens(self, texts: Sequence[str]) -> Any:
        """Return ids and mask of texts, padded to the length that the encoder was trained on."""
        return self.tokenizer(
            list(texts), padding="max_length", max_length=self.longest, truncation=True, return_tensors="pt"
        )

    def _without_weights(self) -> nn.Module:
        name = (read_config(self.folder, self.component).get("architectures") or [None])[0]
        if name not in self.allowed:
            raise RequestError(f"{self.where} is a {name}; allowed: {', '.join(self.allowed)}")
        try:
            with torch.device("meta"):
                network: nn.Module = getattr(_transformers(), name)(self.config)
                if name == T5:
                    network.tie_weights()  # type: ignore[operator]  # a file holds its words under one of two names
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"{self.where} / config.json is not valid: {reason}") from None
        return network


class Texts:
    """The encoders of a folder, and the embeddings of texts that were asked for last.

    Networks are loaded for the first text that is not known; :meth:`release` lets them go.

    Args:
        combine: what the denoiser takes of their outputs.
    """

    def __init__(self, encoders: Sequence[TextEncoder], execution: Execution, combine: Combine) -> None:
        self.encoders = list(encoders)
        self.execution = execution
        self.combine = combine
        self._networks: list[Any] | None = None
        self._known: dict[str, Embedding] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Embedding:
        """Return the embedding of texts; RequestError for one that is too long for an encoder."""
        asked = list(dict.fromkeys(texts))
        new = [text for text in asked if text not in self._known]
        if new:
            made = self._encode(new)
            for row, text in enumerate(new):
                self._known[text] = made.select(torch.tensor([row])) if len(new) > 1 else made
        found = {text: self._known.pop(text) for text in asked}
        self._known |= found  # the last to be asked for are the last to go
        for text in list(self._known)[: -max(MOST_KNOWN, len(found))]:
            del self._known[text]
        return Embedding.together([found[text] for text in texts])

    def release(self) -> None:
        """Let the networks go; what is known stays."""
        self._networks = None

    def _encode(self, texts: Sequence[str]) -> Embedding:
        for encoder in self.encoders:
            for text in texts:
                encoder.check_length(text, f"the text {text[:40]!r}")
        if self._networks is None:
            self._networks = [encoder.load(self.execution) for encoder in self.encoders]
        outputs = []
        for encoder, network in zip(self.encoders, self._networks, strict=True):
            given = encoder.tokens(texts).to(self.execution.device)
            mask = given.attention_mask if getattr(network.config, "use_attention_mask", False) else None
            outputs.append(network(given.input_ids, attention_mask=mask, output_hidden_states=True))
        return self.combine(outputs)


def for_unet(outputs: Sequence[Any]) -> Embedding:
    """Return what a UNet is told: of Stable Diffusion 1 and 2 one encoder's last layer, of XL what two say."""
    if len(outputs) == 1:
        return Embedding(outputs[0].last_hidden_state, None)
    # SDXL: the last layer but one of both, and the projection of the second (Podell et al. 2023, arXiv 2307.01952)
    return Embedding(torch.cat([out.hidden_states[-2] for out in outputs], -1), outputs[1].text_embeds)


def _names_of(network: nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a file holds by the names of this version of transformers."""
    expected = {name.removeprefix(_BASE): name for name in network.state_dict()}
    plain = {name.removeprefix(_BASE): value for name, value in found.items()}
    return {expected.get(name, name): value for name, value in plain.items() if not name.endswith("position_ids")}


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise RequestError(
            "prior.prior", "a text needs transformers, which is not installed: pip install 'ipsolve[text]'"
        ) from None
    return transformers

"""Small random models in the layout of Stable Diffusion, made and saved by diffusers and transformers themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
WIDTH, LENGTH = 16, 16


def tokenizer(folder: Path, length: int = LENGTH, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return a tokenizer of letters and a few syllables, read from the two files that published ones are."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = ["f a", "c e</w>", "fa ce</w>"]
    words = [
        *letters,
        *(f"{c}</w>" for c in letters),
        "fa",
        "ce</w>",
        "face</w>",
        "!",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    settings = {"model_max_length": length, "pad_token": pad, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def text_config(words: CLIPTokenizer, layers: int, width: int = WIDTH, **config: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=12,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        **config,
    )


def unet(cross_attention_dim: int, **config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=cross_attention_dim,
        **config,
    )


def vae(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **config,
    )


def randomised(network: Any) -> Any:
    """Return the network with weights that are none of the zeros and ones of an initialisation."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def stable_diffusion(kind: str, folder: Path) -> Any:
    """Return the pipeline of a small Stable Diffusion ``1``, ``2`` or ``xl``, saved to ``folder``."""
    torch.manual_seed(0)
    words = tokenizer(folder.parent / f"words-{kind}")
    encoder = randomised(CLIPTextModel(text_config(words, 2, hidden_act="gelu" if kind == "2" else "quick_gelu")))
    if kind == "xl":
        second = tokenizer(folder.parent / "words-xl-2", pad="!")
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
        network = unet(2 * WIDTH + 8, **added, projection_class_embeddings_input_dim=12 + 6 * 4)
        pipeline: Any = StableDiffusionXLPipeline(
            vae=randomised(vae(scaling_factor=0.13025, force_upcast=True)),
            text_encoder=encoder,
            text_encoder_2=randomised(CLIPTextModelWithProjection(text_config(second, 3, WIDTH + 8))),
            tokenizer=words,
            tokenizer_2=second,
            unet=randomised(network),
            scheduler=EulerDiscreteScheduler(**SD, timestep_spacing="leading"),
            add_watermarker=False,
        )
    else:
        scheduler: Any = PNDMScheduler(**SD, skip_prk_steps=True)
        if kind == "2":
            scheduler = DDIMScheduler(**SD, set_alpha_to_one=False, prediction_type="v_prediction")
        pipeline = StableDiffusionPipeline(
            vae=randomised(vae(scaling_factor=0.18215)),
            text_encoder=encoder,
            tokenizer=words,
            unet=randomised(unet(WIDTH, use_linear_projection=kind == "2")),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return pipeline

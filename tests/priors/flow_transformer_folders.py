"""Small random models in the layouts of Stable Diffusion 3 and FLUX.1, made and saved by diffusers and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

from tests.priors.stable_diffusion_folders import WIDTH, randomised, text_config, tokenizer, vae

TOLD = 48  # numbers of a token that the transformers are told
SIZE = 16  # of images, whose latents are half of it
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "max_shift": 1.4}


def t5_tokenizer() -> T5TokenizerFast:
    """Return a tokenizer of letters and a word."""
    letters = [(chr(c), -3.0) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁face", -1.0), *letters]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def t5(words: T5TokenizerFast) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words),
        d_model=TOLD,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return randomised(T5EncoderModel(config))


def flow_vae() -> Any:
    """Return an autoencoder with a shift, and without the convolutions around the code, as both have it."""
    return randomised(vae(scaling_factor=1.5305, shift_factor=0.3, use_quant_conv=False, use_post_quant_conv=False))


def sd3(folder: Path, with_t5: bool = True, **schedule: Any) -> StableDiffusion3Pipeline:
    """Return the pipeline of a small Stable Diffusion 3 (with what 3.5 adds), saved to ``folder``."""
    torch.manual_seed(0)
    first, second = (tokenizer(folder.parent / f"{folder.name}-words-{pad}", pad=pad) for pad in ("<|endoftext|>", "!"))
    third = t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TOLD,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=6,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=randomised(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **schedule}),
        vae=flow_vae(),
        text_encoder=randomised(CLIPTextModelWithProjection(text_config(first, 2, hidden_act="quick_gelu"))),
        tokenizer=first,
        text_encoder_2=randomised(CLIPTextModelWithProjection(text_config(second, 3, WIDTH + 8))),
        tokenizer_2=second,
        text_encoder_3=t5(third) if with_t5 else None,
        tokenizer_3=third if with_t5 else None,
    )
    return _saved(pipeline, folder)


def flux(folder: Path, guidance_embeds: bool = True, **schedule: Any) -> FluxPipeline:
    """Return the pipeline of a small FLUX.1, saved to ``folder``: ``dev``, or without guidance ``schnell``."""
    torch.manual_seed(0)
    first, second = tokenizer(folder.parent / f"{folder.name}-words"), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TOLD,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        transformer=randomised(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **DYNAMIC, **schedule}),
        vae=flow_vae(),
        text_encoder=randomised(CLIPTextModel(text_config(first, 2, hidden_act="quick_gelu"))),
        tokenizer=first,
        text_encoder_2=t5(second),
        tokenizer_2=second,
    )
    return _saved(pipeline, folder)


def _saved(pipeline: Any, folder: Path) -> Any:
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request_of(folder: Path, **request: Any) -> dict[str, Any]:
    """Return the request for a folder, whose name says of which layout it is."""
    if folder.name.startswith("sd3"):
        return {"prior": "stable_diffusion", "path": str(folder), **request}
    return {"prior": "flux", "path": str(folder), "size": SIZE, **request}

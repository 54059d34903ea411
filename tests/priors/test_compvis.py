"""A converted CompVis checkpoint computes what the CompVis network computes, layer for layer."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ipsolve.priors.networks.compvis import read_checkpoint
from ipsolve.priors.networks.ldm_vq4 import random_init
from ipsolve.requests.errors import RequestError
from tests.priors import compvis_reference as reference
from tests.priors.compvis_reference import SMALL, Architecture

LAYERS = (ResnetBlock2D, Attention, Downsample2D, Upsample2D)
RAW = "model.diffusion_model."


def traced(network: nn.Module, ends: tuple[str, ...], run: Callable[[], Tensor]) -> tuple[list[Tensor], Tensor]:
    """The output of every layer of interest in the order of execution, and the result of ``run``."""
    trace: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out: trace.append(out))
        for name, module in network.named_modules()
        if isinstance(module, LAYERS) or name in ends
    ]
    with torch.no_grad():
        out = run()
    for hook in hooks:
        hook.remove()
    return trace, out


def assert_same_layers(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape, index
        assert (a - b).abs().max() <= tolerance * b.abs().max(), index


def compare(a: Architecture, dtype: torch.dtype, tolerance: float, latent_size: int, image_size: int) -> None:
    state = reference.random_state(a)
    unet, autoencoder, _ = (part for part in read_checkpoint(state))
    unet, autoencoder = nn.Module.to(unet, dtype).eval(), nn.Module.to(autoencoder, dtype).eval()
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 3, latent_size, latent_size, generator=generator, dtype=dtype)
    expected: list[Tensor] = []
    with torch.no_grad():
        eps = reference.unet(state, z, 37, a, expected, RAW)
    found, out = traced(unet, ("conv_in", "conv_out"), lambda: unet(z, 37).sample)
    assert_same_layers([*found, out], [*expected, eps], tolerance)

    x = torch.rand(1, 3, image_size, image_size, generator=generator, dtype=dtype) * 2 - 1
    expected = []
    with torch.no_grad():
        code = reference.encode(state, x, a, expected)
    ends = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")
    found, out = traced(autoencoder, ends, lambda: autoencoder.encode(x).latents)
    assert_same_layers([*found, out], [*expected, code], tolerance)
    expected = []
    with torch.no_grad():
        image = reference.decode(state, code, a, expected)
    found, out = traced(autoencoder, ends, lambda: autoencoder.decode(code).sample)
    assert_same_layers([*found, out], [*expected, image], tolerance)


def test_small_network_layer_for_layer_in_float64() -> None:
    compare(SMALL, torch.float64, 1e-11, latent_size=16, image_size=32)


@pytest.mark.parametrize(
    "shape", [{"channel_mult": (1, 2), "attention": (True, False)}, {"blocks": 1, "ch_mult": (1, 3)}]
)
def test_other_architectures_of_the_family(shape: dict[str, tuple[int, ...]]) -> None:
    compare(SMALL._replace(**shape), torch.float64, 1e-11, latent_size=8, image_size=16)


def test_full_ldm_vq4_layer_for_layer_in_float32() -> None:
    compare(Architecture(), torch.float32, 2e-4, latent_size=64, image_size=64)


def test_random_ldm_vq4_has_the_published_size_and_is_a_function_of_its_seed() -> None:
    a = random_init(seed=3)
    assert sum(p.numel() for p in a.unet.parameters()) == 274_056_163
    assert sum(p.numel() for p in a.autoencoder.parameters()) == 55_322_782
    assert (a.latent_shape, a.image_shape, a.scaling_factor) == ((3, 64, 64), (3, 256, 256), 1.0)
    assert a.schedule.level(999).ratio == pytest.approx(83.8, abs=0.05)
    weight = a.unet.conv_out.weight.clone()
    del a
    assert torch.equal(random_init(seed=3).unet.conv_out.weight, weight)


def test_ema_weights_are_the_averaged_ones() -> None:
    state = reference.random_state(SMALL, ema=True)
    stored = {n: v for n, v in state.items() if n.startswith("model_ema.diffusion_model")}
    averaged = {n: stored[f"model_ema.{n.removeprefix('model.').replace('.', '')}"] for n in state if n.startswith(RAW)}
    z = torch.randn(1, 3, 8, 8)
    expected = reference.unet(averaged, z, 500, SMALL, [], RAW)
    with torch.no_grad():
        ema = read_checkpoint(state, "ema").unet.eval()(z, 500).sample
        raw = read_checkpoint(state, "raw").unet.eval()(z, 500).sample
    assert torch.allclose(ema, expected, atol=1e-4)
    assert not torch.allclose(raw, expected, atol=1e-1)


def test_betas_of_the_checkpoint_decide_the_schedule() -> None:
    state = reference.random_state(SMALL)
    assert read_checkpoint(state).scheduler["beta_schedule"] == "scaled_linear"
    state["betas"] = torch.linspace(1e-4, 0.02, 1000)
    assert read_checkpoint(state).scheduler["trained_betas"] == pytest.approx(state["betas"].tolist())


def remove(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def put(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            remove(f"{RAW}input_blocks.1.0.in_layers.0.weight"),
            "lacks 1 weights, the first being model.diff",
        ),
        (remove(f"{RAW}input_blocks.0.0.weight"), "lacks model.diffusion_model.input_blocks.0.0.weight"),
        (remove("first_stage_model.quantize.embedding.weight"), "lacks first_stage_model.quantize.embedding.weight"),
        (remove("first_stage_model.decoder.up.1.block.0.conv1.bias"), "lacks 1 weights"),
        (
            put(f"{RAW}label_emb.0.weight", 4),
            "holds unexpected 1 weights, the first being model",
        ),
        (put("first_stage_model.encoder.down.0.attn.0.q.weight", 4), "holds unexpected 1 weights"),
        (put(f"{RAW}middle_block.0.in_layers.0.weight", 7), "shape"),
        (put(f"{RAW}out.2.weight", 5, 32, 3, 3), "conv_out.weight has shape"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(damage: Callable[[dict[str, Tensor]], object], message: str) -> None:
    state = reference.random_state(SMALL)
    damage(state)
    with pytest.raises(RequestError, match=message) as caught:
        read_checkpoint(state)
    assert "\n" not in str(caught.value)


def test_ema_of_a_checkpoint_without_it() -> None:
    with pytest.raises(RequestError, match=r"EMA weights.*--weights raw"):
        read_checkpoint(reference.random_state(SMALL), "ema")


def test_something_else_is_not_a_checkpoint() -> None:
    with pytest.raises(RequestError, match="not a CompVis latent diffusion model"):
        read_checkpoint({"conv.weight": torch.zeros(3)})

"""The autoencoders of diffusers: images to latents and back, without a draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipsolve.priors.base import Shape
from ipsolve.priors.networks.diffusers_folder import Config, check_network, component_folder, network_config, setting
from ipsolve.priors.networks.tracing import require_output
from ipsolve.requests.errors import RequestError

AUTOENCODERS = ("AutoencoderKL", "VQModel", "AutoencoderTiny", "AutoencoderDC")
_VQ_CLASS_DEFAULT = 0.18215  # what VQModel writes when nobody chose a factor: no fact about the checkpoint


def autoencoder_component(folder: Path) -> str:
    """Return the name of the component, ``vae`` or ``vqvae``; RequestError where there is neither."""
    for component in ("vae", "vqvae"):
        if component_folder(folder, component).is_dir():
            return component
    raise RequestError(f"prior.path: {folder} has neither vae/ nor vqvae/; without an autoencoder use prior: pixel")


def check_autoencoder(folder: Path, component: str, latent_shape: Shape, variant: str | None = None) -> None:
    """Raise RequestError where an autoencoder would not load, or not turn images into such latents and back."""
    network = check_network(folder, component, AUTOENCODERS, variant)
    where = f"prior.path: {folder / component}"
    image = image_shape(network_config(folder, component, AUTOENCODERS), latent_shape, where)
    require_output(lambda x: code_of(network, x), image, latent_shape, where)
    require_output(lambda code: image_of(network, code), latent_shape, image, where)


def code_of(autoencoder: Any, x: Tensor) -> Tensor:
    """Return the code of images: of an AutoencoderKL the posterior mean, of a VQModel the code not yet quantised."""
    code = autoencoder.encode(x, return_dict=False)[0]
    return code.mode() if hasattr(code, "mode") and not isinstance(code, Tensor) else code  # type: ignore[no-any-return]


def image_of(autoencoder: Any, code: Tensor) -> Tensor:
    """Return the images of codes; those of a VQModel are taken as they are, quantised or not."""
    # quantised by now, in full precision: under autocast the nearest code would be searched in bfloat16
    options = {"force_not_quantize": True} if quantises(autoencoder) else {}
    return autoencoder.decode(code, return_dict=False, **options)[0]  # type: ignore[no-any-return]


def quantises(autoencoder: Any) -> bool:
    """Return whether its codes are rows of a codebook."""
    return hasattr(autoencoder, "quantize")


def nearest_code(u: Tensor, codebook: Tensor, chunk: int = 8192) -> Tensor:
    """Return u with each vector replaced by the nearest row of ``codebook``; its gradient is that of the identity.

    Args:
        u: (B, C, H, W).
        codebook: (K, C).
        chunk: vectors compared at once, which bounds memory to ``chunk`` x K numbers.
    """
    with torch.no_grad():
        vectors = u.movedim(1, -1).reshape(-1, u.shape[1])
        energy = codebook.square().sum(1)
        # |u - e|^2 = |u|^2 - 2 <u, e> + |e|^2, whose first term does not choose
        index = torch.cat([torch.addmm(energy, v, codebook.T, alpha=-2).argmin(1) for v in torch.split(vectors, chunk)])
        quantized = codebook[index].reshape(u.movedim(1, -1).shape).movedim(-1, 1)
    return u + (quantized - u).detach()


def image_shape(config: Config, latent_shape: Shape, where: str, network: str = "unet") -> Shape:
    """Return the image shape (C, H, W) that an autoencoder decodes latents of ``latent_shape`` to.

    Args:
        network: which component takes the latents, in the words of an error.

    Raises:
        RequestError: the autoencoder has another number of latent channels than the UNet, or decodes to another size
            than it encodes.
    """
    channels = int(setting(config, "vq_embed_dim") or setting(config, "latent_channels"))
    if channels != latent_shape[0]:
        raise RequestError(f"{where} has {channels} latent channels, {network} takes {latent_shape[0]} (in_channels)")
    halvings = len(setting(config, "encoder_block_out_channels") or setting(config, "block_out_channels")) - 1
    factor = 2**halvings
    if upsampling := setting(config, "upsampling_scaling_factor"):  # AutoencoderTiny, whose halves may differ
        decoded = int(upsampling) ** (len(setting(config, "decoder_block_out_channels")) - 1)
        if decoded != factor:
            raise RequestError(f"{where} encodes {factor} pixels into one and decodes one to {decoded}")
    return int(setting(config, "in_channels")), latent_shape[1] * factor, latent_shape[2] * factor


def scaling_factor(config: Config) -> float:
    """Return the factor between codes and latents: of a VQModel 1, where it states what nobody chose."""
    factor = float(setting(config, "scaling_factor") or 1.0)
    return 1.0 if config["_class_name"] == "VQModel" and factor == _VQ_CLASS_DEFAULT else factor

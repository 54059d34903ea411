"""What stands between a raw network and a denoiser: Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1.

D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ipsolve.requests.errors import RequestError

PreconditioningName = Literal["edm", "ve", "none"]


class Pyramid:
    """What the configurations of networks share whose modules are named by the side of their resolution, in pixels."""

    sample_size: int
    attention: tuple[bool, ...]

    def require_levels(self, count: int, key: str) -> None:
        """Raise RequestError unless there are ``count`` resolutions, each half the last; ``key`` lists them."""
        if len(self.attention) != count:
            raise RequestError("attention", f"must have as many entries as {key}")
        if self.sample_size % 2 ** (count - 1):
            raise RequestError("sample_size", f"{self.sample_size} cannot be halved {count - 1} times")

    def at(self, level: int, part: str) -> str:
        """Return the name of a module at a resolution."""
        side = self.sample_size >> level
        return f"{side}x{side}_{part}"


class PreconditionedUNet(nn.Module):
    """A network with its preconditioning, (B, C, H, W) at times (B,) -> (B, C, H, W); images in [-1, 1].

    ``edm`` and ``ve`` take sigma as their time, and return D, the denoised image: ``prediction_type`` sample. ``ve`` is
    the score of NCSN++ (Song et al. 2021, arXiv 2011.13456): trained on images in [0, 1], which the network centres
    itself, it sees x and log(sigma / 2), and x + sigma F is the denoised image. ``none`` returns F itself.

    Args:
        preconditioning: one of those.
        sigma_data: standard deviation of the images that ``edm`` was trained with.
    """

    config: Mapping[str, Any]

    def __init__(self, preconditioning: PreconditioningName, sigma_data: float) -> None:
        super().__init__()
        self.preconditioning = preconditioning
        self.sigma_data = sigma_data

    @abstractmethod
    def raw(self, x: Tensor, noise: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return F(x, noise), (B, C, H, W), (B,) -> (B, C, H, W); ``class_labels`` is (B,) int64."""

    def forward(
        self, x: Tensor, time: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Return (output,), as networks of diffusers do without ``return_dict``."""
        time = time.to(x.dtype)
        sigma = time[:, None, None, None]
        match self.preconditioning:
            case "edm":
                scale = torch.sqrt(sigma**2 + self.sigma_data**2)
                out = self.raw(x / scale, time.log() / 4, class_labels)
                return ((self.sigma_data / scale) ** 2 * x + sigma * self.sigma_data / scale * out,)
            case "ve":
                return (x + sigma * self.raw(x, (time / 2).log(), class_labels),)
            case _:
                return (self.raw(x, time, class_labels),)


class WithLabel(nn.Module):
    """A class-conditional network at one class, the same for every image."""

    def __init__(self, unet: nn.Module, label: int) -> None:
        super().__init__()
        self.unet = unet
        self.label = label
        self.config: Mapping[str, Any] = unet.config  # type: ignore[assignment]

    def forward(self, x: Tensor, time: Tensor, return_dict: bool = False) -> Any:
        """Return what the network returns, (B, C, H, W), (B,)."""
        labels = torch.full((len(x),), self.label, device=x.device)
        return self.unet(x, time, class_labels=labels, return_dict=return_dict)

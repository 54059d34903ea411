"""LPIPS of each image, by the ``lpips`` package of its authors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ipsolve.citation import Citation
from ipsolve.metrics.base import METRICS, Metric, require_rgb
from ipsolve.metrics.weights import PublishedFile, missing_package
from ipsolve.requests.errors import RequestError

_TORCHVISION = "https://download.pytorch.org/models/"
TRUNKS = {
    "alex": PublishedFile(
        "alexnet-owt-7be5be79.pth",
        _TORCHVISION + "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        key="weights.lpips",
    ),
    "vgg": PublishedFile(
        "vgg16-397923af.pth",
        _TORCHVISION + "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        key="weights.lpips",
    ),
}
_SMALLEST = {"alex": 63, "vgg": 32}  # pixels; below it a pooling layer of the trunk has no output


@METRICS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Lpips(Metric):
    """Learned perceptual distance (Zhang, Isola, Efros, Shechtman & Wang 2018, arXiv 1801.03924), version 0.1.

    The linear weights come with the package; the trunk is torchvision's AlexNet or VGG-16, read from the file that
    torchvision itself would download. Inputs are clipped to [-1, 1], the range the package expects.

    Args:
        net: the trunk.
        path: of its file; None, where torchvision puts it.
    """

    name: ClassVar[str] = "lpips"
    citation: ClassVar[Citation] = Citation(
        key="zhang2018lpips",
        authors="Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver",
        title="The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        year=2018,
        venue="CVPR",
        arxiv="1801.03924",
    )
    higher_is_better: ClassVar[bool] = False
    meaning: ClassVar[str] = "lpips 0.1, inputs in [-1, 1]"
    WEIGHTS: ClassVar[Mapping[str, str]] = {"net": "lpips_net", "path": "lpips"}

    net: Literal["alex", "vgg"] = "alex"
    path: str | None = None

    def unavailable(self) -> str | None:
        return missing_package("lpips", "lpips") or TRUNKS[self.net].unavailable(self.path)

    def identity(self) -> dict[str, Any]:
        return {} if self.net == "alex" else {"lpips_net": self.net}

    def check(self, image_shape: tuple[int, ...]) -> None:
        require_rgb("lpips", image_shape)
        if min(image_shape[-2:]) < (least := _SMALLEST[self.net]):
            raise RequestError(f"lpips ({self.net}) needs images of at least {least} pixels, not {tuple(image_shape)}")

    @torch.no_grad()
    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        self.check(tuple(x.shape[1:]))
        model = self._network.to(x.device)
        value: Tensor = model(x_hat.float().clamp(-1, 1), x.float().clamp(-1, 1))
        return value.flatten(1).mean(1)

    @cached_property
    def _network(self) -> nn.Module:
        return load_lpips(self.net, TRUNKS[self.net].read(self.path))


def load_lpips(net: str, trunk: bytes) -> nn.Module:
    """Return ``lpips.LPIPS`` with every trunk tensor taken from ``trunk``, a torchvision state dict.

    Raises:
        RequestError: a tensor that the network needs is not in the file, or has another shape.
    """
    import lpips

    with warnings.catch_warnings():  # lpips 0.1.4 calls torchvision by its old arguments
        warnings.simplefilter("ignore")
        # "random" here only keeps the package from downloading: all of it is overwritten below
        model: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = torch.load(io.BytesIO(trunk), map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, parameter in model.get_submodule(
            "net"
        ).named_parameters():  # slice2.5.weight is features.5.weight of torchvision
            source = state.get("features." + name.split(".", 1)[1])
            if source is None or source.shape != parameter.shape:
                raise RequestError("weights.lpips", f"this file is not torchvision's trunk for {net!r}: {name} differs")
            parameter.copy_(source)
    return model.eval().requires_grad_(False)

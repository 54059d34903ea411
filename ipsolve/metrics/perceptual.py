"""LPIPS of each image, by the ``lpips`` package of its authors."""

from __future__ import annotations

import io
import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn

from ipsolve.metrics.base import METRICS, Metric
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
class Lpips(Metric):
    """Learned perceptual distance (Zhang, Isola, Efros, Shechtman & Wang 2018, arXiv 1801.03924), version 0.1.

    The linear weights come with the package; the trunk is torchvision's AlexNet or VGG-16, read from the file that
    torchvision itself would download. Inputs are clipped to [-1, 1], the range the package expects.
    """

    name: ClassVar[str] = "lpips"
    higher_is_better: ClassVar[bool] = False
    _model: nn.Module | None = None

    def unavailable(self) -> str | None:
        return missing_package("lpips", "lpips") or TRUNKS[self.weights.lpips_net].unavailable(self.weights.lpips)

    @torch.no_grad()
    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        net = self.weights.lpips_net
        if min(x.shape[-2:]) < _SMALLEST[net]:
            raise RequestError(f"lpips ({net}) needs images of at least {_SMALLEST[net]} pixels, not {tuple(x.shape)}")
        if self._model is None:
            self._model = load_lpips(net, TRUNKS[net].read(self.weights.lpips))
        model = self._model.to(x.device)
        value: Tensor = model(x_hat.float().clamp(-1, 1), x.float().clamp(-1, 1))
        return value.flatten(1).mean(1)


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
                raise RequestError(f"weights.lpips: this file is not torchvision's trunk for {net!r}: {name} differs")
            parameter.copy_(source)
    return model.eval().requires_grad_(False)

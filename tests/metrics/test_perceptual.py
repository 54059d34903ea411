"""LPIPS is the package's own number, from a checked file, or it is absent and says how to get it."""

import hashlib
import io
import warnings
from dataclasses import replace
from pathlib import Path

import lpips
import pytest
import torch
import torchvision

from ipsolve.metrics import METRICS, perceptual
from ipsolve.requests.errors import RequestError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def trunk(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the published AlexNet: random weights in the published layout, under the published name."""
    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).state_dict()
    # the package loads the classifier without using it: a stride of zero keeps the file small
    state |= {k: torch.zeros(1).expand(v.shape) for k, v in state.items() if k.startswith("classifier")}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = hub / perceptual.TRUNKS["alex"].name
    path.write_bytes(buffer.getvalue())
    published = replace(perceptual.TRUNKS["alex"], sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setitem(perceptual.TRUNKS, "alex", published)
    return path


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 64, 64, generator=generator) * 2 - 1, torch.rand(3, 3, 64, 64, generator=generator) * 2 - 1


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_absent_weights_are_named_with_the_command_that_gets_them(hub: Path, net: str) -> None:
    reason = METRICS["lpips"](net=net).unavailable()
    file = perceptual.TRUNKS[net]
    assert reason is not None
    assert f"curl -fL --create-dirs -o {hub}/{file.name} https://download.pytorch.org/models/{file.name}" in reason
    assert "\n" not in reason


def test_absent_weights_never_become_random_ones(hub: Path) -> None:
    with pytest.raises(RequestError, match="not on this machine"):
        METRICS["lpips"]()(*images())


def test_a_file_with_another_digest_is_refused(hub: Path) -> None:
    (hub / perceptual.TRUNKS["alex"].name).write_bytes(b"not the published file")
    reason = METRICS["lpips"]().unavailable()
    assert reason is not None
    assert "SHA-256" in reason
    assert perceptual.TRUNKS["alex"].sha256 in reason
    with pytest.raises(RequestError, match="SHA-256"):
        METRICS["lpips"]()(*images())


def test_a_path_that_does_not_exist_is_a_request_error(hub: Path) -> None:
    with pytest.raises(RequestError, match=r"weights\.lpips: no file at 'nowhere\.pth'"):
        METRICS["lpips"](path="nowhere.pth").unavailable()


def test_lpips_equals_the_package_reading_the_same_file(trunk: Path) -> None:
    x_hat, x = images()
    metric = METRICS["lpips"]()
    assert metric.unavailable() is None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by its old arguments
        # the package's own route: torchvision reads the file from torch.hub's folder
        expected = lpips.LPIPS(net="alex", verbose=False)(x_hat, x).flatten()
    torch.testing.assert_close(metric(x_hat, x), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(metric(x, x), torch.zeros(3), rtol=0, atol=1e-7)


def test_lpips_clips_and_does_not_depend_on_the_batch(trunk: Path) -> None:
    x_hat, x = images()
    metric = METRICS["lpips"]()
    torch.testing.assert_close(metric(x_hat * 2, x), metric((x_hat * 2).clamp(-1, 1), x), rtol=0, atol=0)
    alone = torch.cat([metric(x_hat[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(metric(x_hat, x), alone, rtol=1e-5, atol=1e-6)


def test_a_trunk_of_another_network_is_refused(trunk: Path) -> None:
    with pytest.raises(RequestError, match="not torchvision's trunk for 'vgg'"):
        perceptual.load_lpips("vgg", trunk.read_bytes())

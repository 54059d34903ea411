"""Features come from clean-fid's pipeline and checked weights, or are absent; the prior's own are always there."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ipsolve.metrics import FEATURES, SET_METRICS, features
from ipsolve.requests.errors import RequestError


class Layers(nn.Module):
    """A stand-in for the layers of Inception: 2048 random projections of the resized image."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(8)
        self.linear = nn.Linear(192, 2048)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x).flatten(1))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def inception(tmp_path: Path) -> tuple[Path, str]:
    """A TorchScript file with the interface of the published one, and its SHA-256."""
    torch.manual_seed(0)
    path = tmp_path / "any-name.pt"
    torch.jit.script(Network()).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2


def test_absent_inception_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "INCEPTION", replace(features.INCEPTION, folders=()))
    reason = FEATURES["inception"]().unavailable()
    assert reason is not None
    assert "curl -fL" in reason
    assert reason.endswith("inception-2015-12-05.pt")


def test_code_from_a_file_is_not_run_unless_its_digest_matches(inception: tuple[Path, str], images: Tensor) -> None:
    path, digest = inception
    unknown = FEATURES["inception"](path=str(path))
    reason = unknown.unavailable()
    assert reason is not None
    assert digest in reason
    with pytest.raises(RequestError, match="SHA-256"):
        unknown.extract(images)
    assert FEATURES["inception"](path=str(path), sha256=digest).unavailable() is None


def test_inception_features_are_those_of_clean_fid(inception: tuple[Path, str], images: Tensor) -> None:
    from cleanfid.fid import get_batch_features
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    path, digest = inception
    found = FEATURES["inception"](path=str(path), sha256=digest).extract(images)
    path.rename(path.with_name("inception-2015-12-05.pt"))
    model = InceptionV3W(str(path.parent), download=False)
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    resized = torch.from_numpy(np.stack([build_resizer("clean")(image) for image in pixels])).permute(0, 3, 1, 2)
    np.testing.assert_allclose(found.numpy(), get_batch_features(resized, model, "cpu"), rtol=1e-5, atol=1e-5)


def test_prior_features_need_no_download_and_take_any_size(images: Tensor) -> None:
    extractor = FEATURES["prior"]()
    assert extractor.unavailable() is None
    together = extractor.extract(images)
    assert together.shape[0] == 3
    assert together.dtype == torch.float32
    assert bool(together.isfinite().all())
    alone = torch.cat([extractor.extract(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_every_set_metric_names_a_feature_extractor() -> None:
    assert all(SET_METRICS[name].features in FEATURES for name in SET_METRICS)

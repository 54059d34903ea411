"""Each operator against an independent, direct implementation of what it claims to be."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from ipsolve.conventions import from_uint8, to_uint8
from ipsolve.operators import LinearOperator, Operator, parse_task
from ipsolve.operators.compressed_sensing import SubsampledTransform
from ipsolve.operators.mask import Mask
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError

IDS = ["a", "b"]


def draw(task: dict[str, object], x: Tensor) -> Operator:
    return parse_task(task).operator.draw(tuple(x.shape[1:]), image_rng(0, IDS, "operator"), x.dtype)


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


@pytest.mark.parametrize(("boundary", "mode"), [("reflect", "mirror"), ("circular", "grid-wrap")])
@pytest.mark.parametrize("std", [0.7, 3.0])
def test_gaussian_blur_is_scipys(x: Tensor, boundary: str, mode: str, std: float) -> None:
    y = draw({"operator": "gaussian_blur", "std": std, "boundary": boundary}, x).forward(x)
    expected = scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, std, std), mode=mode)
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=0, atol=2e-6)  # 1e-6 of A is cut off as null


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_super_resolution_is_antialiased_bicubic(x: Tensor, factor: int) -> None:
    """On an image mirrored beyond its borders, so that the borders of torch's own filter do not matter."""
    y = draw({"operator": "super_resolution", "factor": factor}, x).forward(x)
    wide = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (32, 32), (48, 48)), mode="symmetric"))
    small = torch.nn.functional.interpolate(
        wide, scale_factor=1 / factor, mode="bicubic", antialias=True, align_corners=False
    )
    height, width = 32 // factor, 48 // factor
    expected = small[..., height : 2 * height, width : 2 * width]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_motion_blur_is_a_convolution(x: Tensor, boundary: str) -> None:
    task = {"operator": "motion_blur", "kernel_size": 9, "boundary": boundary}
    y = draw(task, x).forward(x)
    family = parse_task(task).operator.family(tuple(x.shape[1:]), x.dtype)
    kernel = family.parameters(image_rng(0, IDS, "operator"))["kernel"]
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4), mode=boundary)
    for i in range(2):
        flipped = kernel[i].flip(0, 1)[None, None]  # torch correlates
        expected = torch.nn.functional.conv2d(padded[i][:, None], flipped)[:, 0]
        torch.testing.assert_close(y[i], expected, rtol=0, atol=1e-6 if boundary == "circular" else 1e-12)


def test_compressed_sensing_takes_cosine_coefficients(x: Tensor) -> None:
    operator = draw({"operator": "compressed_sensing", "ratio": 0.25}, x)
    assert isinstance(operator, SubsampledTransform)
    coefficients = scipy.fft.dctn((operator.signs * x).numpy(), axes=(2, 3), norm="ortho").reshape(2, 3, -1)
    y = operator.forward(x)
    assert y.shape == (2, 3, 32 * 48 // 4)
    for i in range(2):
        assert len(set(operator.rows[i].tolist())) == 32 * 48 // 4
        np.testing.assert_allclose(y[i], coefficients[i][:, operator.rows[i]], atol=1e-12)


def test_grayscale_is_a_weighted_mean(x: Tensor) -> None:
    torch.testing.assert_close(draw({"operator": "grayscale"}, x).forward(x), x.mean(1, keepdim=True))
    operator = draw({"operator": "grayscale", "weights": [0.299, 0.587, 0.114]}, x)
    y = operator.forward(x)
    torch.testing.assert_close(y[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    shown = operator.as_image(y)
    assert shown is not None
    assert torch.equal(shown, y.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.92])
def test_random_inpainting_drops_exactly_its_share(x: Tensor, rate: float) -> None:
    operator = draw({"operator": "random_inpainting", "drop_rate": rate}, x)
    assert isinstance(operator, Mask)
    assert operator.mask.shape == (2, 1, 32, 48)
    assert ((1 - operator.mask).sum((1, 2, 3)) == int(rate * 32 * 48)).all()
    assert torch.equal(operator.forward(x), operator.mask * x)


def test_random_inpainting_draws_its_share_from_a_range() -> None:
    spec = parse_task({"operator": "random_inpainting"}).operator
    ids = [str(i) for i in range(200)]
    operator = spec.draw((3, 64, 64), image_rng(0, ids, "operator"), torch.float64)
    share = 1 - operator.num_measurements(200) / (3 * 64 * 64)
    assert (share > 0.70 - 1 / 64**2).all()
    assert (share < 0.71).all()
    assert share.mean().item() == pytest.approx(0.705, abs=0.001)
    assert share.std().item() == pytest.approx(0.01 / 12**0.5, rel=0.15)


def test_noise_may_land_on_dropped_pixels_too(x: Tensor) -> None:
    mute = draw({"operator": "random_inpainting", "drop_rate": 0.5}, x)
    loud = draw({"operator": "random_inpainting", "drop_rate": 0.5, "noise_on_masked": True}, x)
    assert torch.equal(mute.forward(x), loud.forward(x))
    assert loud.support() is None
    assert loud.num_measurements(2).tolist() == [3 * 32 * 48] * 2
    assert mute.num_measurements(2).tolist() == [3 * 32 * 24] * 2
    assert isinstance(loud, Mask)
    assert isinstance(mute, Mask)
    assert torch.equal(loud.pinv(torch.ones_like(x)), mute.mask.expand_as(x))


def test_box_inpainting_removes_the_middle(x: Tensor) -> None:
    kept = draw({"operator": "box_inpainting"}, x).forward(torch.ones_like(x))
    expected = torch.ones_like(x)
    expected[..., 8:24, 16:32] = 0
    assert torch.equal(kept, expected)


def test_random_boxes_keep_their_margin() -> None:
    spec = parse_task({"operator": "box_inpainting", "position": "random", "box": 8, "margin": 3}).operator
    ids = [str(i) for i in range(300)]
    operator = spec.draw((3, 16, 20), image_rng(0, ids, "operator"), torch.float64)
    missing = operator.forward(torch.ones(300, 3, 16, 20, dtype=torch.float64))[:, 0] == 0
    assert (missing.sum((1, 2)) == 64).all()
    rows, columns = missing.any(2), missing.any(1)
    assert rows.any(0).nonzero().flatten().tolist() == list(range(3, 13))
    assert columns.any(0).nonzero().flatten().tolist() == list(range(3, 17))


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", None])
@pytest.mark.parametrize("sides", [(128, 128), (120, 72)], ids=["whole", "padded"])
def test_jpeg_is_what_pillow_writes(quality: int, sampling: str | None, sides: tuple[int, int]) -> None:
    """In both samplings, by default in Pillow's, and where half the image is no whole number of blocks."""
    picture = data.astronaut()[: sides[0], 160 : 160 + sides[1]]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, **({"subsampling": sampling} if sampling else {}))
    expected = np.asarray(Image.open(file)).astype(int)
    x = from_uint8(torch.from_numpy(picture.copy())).permute(2, 0, 1)[None]
    task = {"operator": "jpeg", "quality": quality} | ({"subsampling": sampling} if sampling else {})
    y = parse_task(task).operator.draw((3, *sides), image_rng(0, ["a"], "operator")).forward(x)
    error = np.abs(to_uint8(y)[0].permute(1, 2, 0).numpy().astype(int) - expected)
    assert error.mean() <= 1.2  # of 255: Pillow rounds to bytes in YCbCr and again in RGB
    for edge in (error[-2:], error[:, -2:]):
        assert edge.mean() <= 2.5


def test_the_largest_kernels_fold_back_exactly() -> None:
    """Reflection of side - 1 pixels reaches every pixel; one more is refused."""
    u, v = 2 * torch.rand(2, 2, 1, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    operator = draw({"operator": "motion_blur", "kernel_size": 11, "intensity": 1.0}, u)
    assert isinstance(operator, LinearOperator)
    left, right = (operator.forward(u) * v).sum(), (u * operator.adjoint(v)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    with pytest.raises(RequestError, match=r"^kernel_size: 13 .* at most 11$"):
        draw({"operator": "motion_blur", "kernel_size": 13}, u)

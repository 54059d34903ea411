"""Signals as bytes for a column of a table: a PNG where it can hold them, else a npy file of float32."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipsolve.conventions import to_uint8, to_unit_range
from ipsolve.signal import Signal


def encode(x: Tensor) -> list[bytes]:
    """Return signals (B, *shape) as bytes: rgb as PNG of 8 bits, gray of 16, all others as npy."""
    match Signal.of(tuple(x.shape[1:])).kind:
        case "rgb":
            pixels = to_uint8(torch.nan_to_num(x.float())).permute(0, 2, 3, 1).cpu().numpy()
            return [_png(Image.fromarray(each)) for each in pixels]
        case "gray":
            levels = (to_unit_range(torch.nan_to_num(x[:, 0].double())) * 65535).round().cpu().numpy()
            return [_png(Image.fromarray(each)) for each in levels.astype(np.uint16)]
        case _:
            return [_npy(each) for each in x.float().cpu().numpy()]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=3)
    return file.getvalue()


def _npy(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()

"""What people see of a signal: a PNG of what is stored in the rows of a run."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ipsolve.signal import Signal

Values = NDArray[np.float64]
PNG = b"\x89PNG"
GAP = 1  # pixels between the panels
MAX_FRAMES = 8


def to_png(stored: bytes) -> bytes:
    """Return a PNG of stored bytes: a PNG as it is; of a npy a picture as its kind asks for.

    Complex numbers: magnitude (black 0, white 1) and phase (a cyclic colour map, dark where the magnitude is 0).
    Volumes: the three orthogonal slices through the middle (rows by columns, slices by columns, slices by rows).
    Videos: a strip of at most 8 frames, evenly spread.
    """
    if stored.startswith(PNG):
        return stored
    x = np.load(io.BytesIO(stored), allow_pickle=False).astype(np.float64)
    pixels = np.clip(np.round(_panels(np.nan_to_num(x)) * 255), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _panels(x: Values) -> Values:
    """Return a picture of a signal, (H, W, 3) in [0, 1]."""
    match Signal.of(x.shape).kind:
        case "complex":
            magnitude = np.clip(np.hypot(x[0], x[1]), 0, 1)
            turn = (np.arctan2(x[1], x[0]) / (2 * np.pi)) % 1
            phase = mpl.colormaps["twilight"](turn)[..., :3] * np.minimum(10 * magnitude, 1)[..., None]
            return _side_by_side([_gray(2 * magnitude - 1), phase])
        case "volume":
            depth, height, width = (size // 2 for size in x.shape)
            return _side_by_side([_gray(x[depth]), _gray(x[:, height]), _gray(x[:, :, width])])
        case "video":
            chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_FRAMES)).round().astype(int))
            return _side_by_side([_frame(frame) for frame in x[chosen]])
        case "vector":
            return _gray(x[None])
        case _:
            return _frame(x)


def _frame(x: Values) -> Values:
    return _gray(x[0]) if len(x) == 1 else (np.moveaxis(x, 0, -1) + 1) / 2


def _gray(plane: Values) -> Values:
    return np.repeat((plane[..., None] + 1) / 2, 3, axis=-1)


def _side_by_side(panels: list[Values]) -> Values:
    height = max(len(panel) for panel in panels)
    padded = [np.pad(panel, ((0, height - len(panel)), (0, GAP), (0, 0)), constant_values=1.0) for panel in panels]
    return np.concatenate(padded, axis=1)[:, :-GAP]

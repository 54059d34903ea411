"""Photographs cut into tiles of the prior's size."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from PIL import Image as Pillow

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.decoding import centre_square, read_rgb, resize, upright_size
from ipsolve.datasets.listed import LocalFiles
from ipsolve.requests.errors import RequestError


@dataclass(frozen=True)
class Grid:
    """The tiles of one photograph: it is shrunk to (width, height), and the margin is split evenly."""

    width: int
    height: int
    rows: int
    columns: int


class TiledImages(Source):
    """Non-overlapping square tiles of each file, row by row, named ``file@ROW-COLUMN``.

    The grid is centred; what is left at the margin is not used. How many tiles a file has is read from its header
    when the source is made. A file whose header cannot be read, or that is smaller than a tile, counts as one
    tile, so that it shows up as a failure instead of vanishing.

    Args:
        files: on a local disk, where reading a header alone is cheap.
        tile: side of a tile in pixels, after shrinking.
        downscale: factor by which each file is shrunk first, 1 or more.
    """

    def __init__(self, files: LocalFiles, tile: int, downscale: float = 1.0) -> None:
        self.files, self.tile, self.downscale = files, tile, downscale
        self._grids = [self._grid(index) for index in range(len(files))]
        self._ends = list(accumulate(grid.rows * grid.columns if grid else 1 for grid in self._grids))
        if not any(self._grids):
            raise RequestError(
                "data.tile", f"no image is as large as one tile of {tile} pixels after downscale={downscale:g}"
            )

    def _grid(self, file: int) -> Grid | None:
        try:
            size = upright_size(self.files.image(file))
            width, height = (max(round(side / self.downscale), 1) for side in size)
        except ImageError:
            return None
        rows, columns = height // self.tile, width // self.tile
        return Grid(width, height, rows, columns) if rows and columns else None

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        """Return (file, tile within it)."""
        file = bisect.bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        ids = []
        for index in indices:
            file, tile = self._locate(index)
            grid = self._grids[file]
            row, column = divmod(tile, grid.columns) if grid else (0, 0)
            ids.append(f"{self.files.name(file)}@{row:02d}-{column:02d}")
        return ids

    def load(self, index: int, size: int) -> Image:
        image = self.load_batch([index], size)[0]
        if isinstance(image, ImageError):
            raise image
        return image

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        """Return tiles in the order of ``indices``; a photograph is decoded once for a run of its tiles."""
        loaded: list[Image | ImageError] = []
        opened: tuple[int, Pillow.Image | ImageError] | None = None
        for index in indices:
            file, tile = self._locate(index)
            if opened is None or opened[0] != file:
                opened = file, self._photograph(file)
            photograph, grid = opened[1], self._grids[file]
            if isinstance(photograph, ImageError) or grid is None:
                loaded.append(photograph if isinstance(photograph, ImageError) else self._too_small(photograph))
            else:
                loaded.append(self._cut(photograph, grid, tile, size))
        return loaded

    def _photograph(self, file: int) -> Pillow.Image | ImageError:
        try:
            image = read_rgb(self.files.image(file))
        except ImageError as error:
            return error
        grid = self._grids[file]
        return Pillow.fromarray(resize(image, grid.width, grid.height)) if grid else image

    def _too_small(self, image: Pillow.Image) -> ImageError:
        width, height = image.size
        return ImageError(f"{width} x {height} pixels hold no tile of {self.tile} after downscale={self.downscale:g}")

    def _cut(self, photograph: Pillow.Image, grid: Grid, tile: int, size: int) -> Image:
        row, column = divmod(tile, grid.columns)
        left = (grid.width - grid.columns * self.tile) // 2 + column * self.tile
        top = (grid.height - grid.rows * self.tile) // 2 + row * self.tile
        return centre_square(photograph.crop((left, top, left + self.tile, top + self.tile)), size)

    def left_out(self) -> dict[str, int]:
        return dict(self.files.left_out)

    def describe(self) -> dict[str, str | int]:
        facts = [*self.files.facts(), self.tile, self.downscale]
        return {
            "kind": "tiles",
            "files": len(self.files),
            "tile": self.tile,
            "downscale": f"{self.downscale:g}",
            "n": len(self),
            "digest": digest(facts),
        }

"""Image files of every kind become the right pixels, or an error that names the reason."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipsolve.datasets import ImageError, open_source
from ipsolve.requests.errors import RequestError


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, np.full_like(y, 40)], -1).astype(np.uint8)


def only(folder: Path, size: int) -> np.ndarray:
    return open_source(str(folder)).load(0, size)


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 100})])
def test_formats(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    picture = gradient(32, 32)
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", **options)
    tolerance = 6 if suffix == "jpg" else 0
    np.testing.assert_allclose(only(tmp_path, 32).astype(int), picture.astype(int), atol=tolerance)


def test_the_centre_is_cropped_then_resized(tmp_path: Path) -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = gradient(40, 40)  # the centred square; the rest must leave no trace
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = Image.fromarray(gradient(40, 40)).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(only(tmp_path, 16), np.asarray(expected))


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    checkers = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(checkers.astype(np.uint8)).save(tmp_path / "a.png")
    assert np.abs(only(tmp_path, 16).astype(int) - 127).max() <= 2


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = gradient(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated clockwise by 90 degrees
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(only(tmp_path, 16), np.rot90(picture, -1))


def orientation(kind: int, value: bytes) -> bytes:
    """Return EXIF data with one entry, the orientation, of a TIFF type that Pillow itself would not write."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, 1) + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [(orientation(3, struct.pack(">H", value)), 5 <= value <= 8) for value in (0, 1, 5, 6, 7, 8, 9, 255)]
    + [(orientation(2, b"7"), False), (orientation(11, struct.pack(">f", 6.5)), False)],
    ids=["0", "1", "5", "6", "7", "8", "9", "255", "text", "fraction"],
)
def test_only_an_exif_orientation_that_exists_turns_an_image_and_its_tiles(
    tmp_path: Path, exif: bytes, turned: bool
) -> None:
    Image.fromarray(gradient(16, 48)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    tiles = open_source({"source": str(tmp_path), "tile": 16})
    columns = tiles.image_ids(range(3))
    assert columns == [f"a.jpg@{i:02d}-00" if turned else f"a.jpg@00-{i:02d}" for i in range(3)]
    # no error, and pixels of the grid that was counted: the middle tile is the centred square of the whole
    np.testing.assert_array_equal(tiles.load(1, 16), only(tmp_path, 16))
    if not turned:
        np.testing.assert_allclose(only(tmp_path, 16).astype(int), gradient(16, 48)[:, 16:32].astype(int), atol=9)


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    layer = np.full((8, 8, 4), 200, np.uint8)
    layer[..., 3] = 0
    layer[:4, :, 3] = 255
    Image.fromarray(layer).save(tmp_path / "a.png")
    image = only(tmp_path, 8)
    assert (image[:4] == 200).all()
    assert (image[4:] == 0).all()


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(only(tmp_path, 8)[..., 0], np.round(deep / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_other_colour_modes(tmp_path: Path, mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    white.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    assert (only(tmp_path, 8) >= 254).all()


def test_the_content_decides_not_the_extension(tmp_path: Path) -> None:
    Image.fromarray(gradient(8, 8)).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(only(tmp_path, 8), gradient(8, 8))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, format=kind)
    return buffer.getvalue()


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", encoded("PNG")[:2000], encoded("JPEG")[:700], encoded("WEBP")[:300], encoded("GIF"), bomb()],
    ids=["empty", "text", "half a PNG", "half a JPEG", "half a WebP", "a GIF", "decompression bomb"],
)
def test_a_damaged_file_is_one_error_and_leaves_the_others_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    Image.fromarray(gradient(8, 8)).save(tmp_path / "b.png")
    source = open_source(str(tmp_path))
    damaged, sound = source.load_batch([0, 1], 8)
    assert isinstance(damaged, ImageError)
    assert str(damaged)
    assert "\n" not in str(damaged)
    np.testing.assert_array_equal(sound, gradient(8, 8))
    with pytest.raises(ImageError):
        source.load(0, 8)


def test_a_file_that_vanished_is_an_image_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(gradient(8, 8)).save(tmp_path / name)
    source = open_source(str(tmp_path))
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="No such file"):
        source.load(0, 8)


@pytest.mark.parametrize("kind", ["files", "parquet"])
@pytest.mark.parametrize("there", [True, False], ids=["not mounted", "no folder"])
def test_a_machine_without_the_folder_does_not_make_failures_of_its_images(
    kind: str, there: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    if kind == "files":
        Image.fromarray(gradient(8, 8)).save(folder / "a.png")
    else:
        pq.write_table(pa.table({"image": [encoded("PNG")]}), folder / "a.parquet")
    source = open_source(str(folder))
    shutil.rmtree(folder)
    if there:
        folder.mkdir()
    with pytest.raises(OSError, match="does not see the images of"):
        source.load_batch([0], 8)


def test_ids_are_relative_sorted_and_the_same_through_a_glob(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.PNG", "c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded("PNG"))
    folder = open_source(str(tmp_path))
    assert folder.image_ids(range(3)) == ["a/1.PNG", "b/2.png", "c.webp"]
    assert len(folder) == 3
    assert open_source(f"{tmp_path}/**/*.png").image_ids([0]) == ["b/2.png"]
    assert open_source(str(tmp_path / "c.webp")).image_ids([0]) == ["c.webp"]
    assert folder.describe()["digest"] != open_source(f"{tmp_path}/**/*.png").describe()["digest"]
    assert pickle.loads(pickle.dumps(folder)).image_ids([1]) == ["b/2.png"]


def test_linked_folders_are_followed_hidden_ones_left_out_and_a_glob_agrees(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / ".home" / "photos", tmp_path / "elsewhere"
    for path in (root / "a/1.png", root / "a/.cache/2.png", root / ".git/b/3.png", root / "4.png", elsewhere / "5.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG"))
    (root / "linked").symlink_to(elsewhere)
    (root / "a/up").symlink_to(root)  # two loops, and each leads through the other
    (elsewhere / "back").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    folder = open_source(str(root))
    ids = folder.image_ids(range(len(folder)))
    assert ids == ["4.png", "a/1.png", "linked/5.png"]
    for pattern in ("**/*.png", "**"):
        same = open_source(f"{root}/{pattern}")
        assert same.image_ids(range(len(same))) == ids
    one = open_source(f"{root}/*/*.png")
    assert one.image_ids(range(len(one))) == ["a/1.png", "linked/5.png"]
    with pytest.raises(RequestError, match="no images in"):
        open_source(f"{root}/*/.cache/*.png")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/no/such/folder", "does not exist"),
        ("{tmp}", "no images in"),
        ("{tmp}/*.png", "no images in"),
        ({"source": "portraits:test", "tile": True}, r"data\.tile: has no meaning for portraits"),
        ({"source": "{tmp}", "tiel": True}, r"data\.tiel: unknown key \(did you mean 'tile'\?\)"),
        ({"source": "{tmp}", "downscale": 0.5}, r"data\.downscale: must be greater than or equal to 1"),
        ({}, r"data\.source: is required"),
        ("hf:only-a-name", "hf:ORG/NAME:SPLIT"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, spec: object, message: str) -> None:
    place = str(tmp_path)
    if isinstance(spec, dict):
        spec = {key: value.replace("{tmp}", place) if isinstance(value, str) else value for key, value in spec.items()}
    else:
        spec = str(spec).replace("{tmp}", place)
    with pytest.raises(RequestError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_hugging_face_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)  # what an absent package looks like
    with pytest.raises(RequestError, match="pip install datasets"):
        open_source("hf:org/name:test")


def test_what_is_passed_over_in_a_folder_is_counted_by_why(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/.cache/2.png", ".git/x/y/3.png", ".git/x/4.png", "5.txt", "6.TXT", "README", ".7.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded("PNG"))
    (tmp_path / "a/up").symlink_to(tmp_path)
    expected = {"hidden": 3, ".txt": 2, "without an ending": 1, "linked in a circle": 1}
    assert open_source(str(tmp_path)).left_out() == expected
    assert open_source({"source": str(tmp_path), "tile": 16}).left_out() == expected
    # of a glob only what it may have meant
    assert open_source(f"{tmp_path}/**/*.png").left_out() == {"hidden": 3, "linked in a circle": 1}
    assert open_source(f"{tmp_path}/*/*.png").left_out() == {"hidden": 1}


@pytest.mark.parametrize("name", ["a.tif", "a.bmp"])
def test_photographs_of_other_formats(tmp_path: Path, name: str) -> None:
    Image.fromarray(gradient(32, 32)).save(tmp_path / name)
    np.testing.assert_array_equal(only(tmp_path, 32), gradient(32, 32))


def test_tiff_of_sixteen_bits_is_a_photograph_and_of_32_bits_is_none(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    deep = np.linspace(0, 65535, 8 * 8 * 3).reshape(8, 8, 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(only(tmp_path, 8), deep >> 8)
    for photometric, expected in (("minisblack", deep[..., 0]), ("miniswhite", 65535 - deep[..., 0])):
        tifffile.imwrite(tmp_path / "a.tif", deep[..., 0], photometric=photometric)
        np.testing.assert_array_equal(only(tmp_path, 8)[..., 0], np.round(expected / 257).astype(np.uint8))
    for kind in (np.float32, np.int32):
        tifffile.imwrite(tmp_path / "a.tif", deep[..., 0].astype(kind))
        with pytest.raises(ImageError, match="values of 32 bits"):
            only(tmp_path, 8)

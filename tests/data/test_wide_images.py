"""Images of more than 8 bits, signed and floating point ones arrive as they are stored, or are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.data.open import InputInfo, open_data
from calibrant.errors import DataError

Image = pytest.importorskip("PIL.Image")

Array = np.ndarray[Any, Any]
VALUES = np.arange(48).reshape(6, 8) * 1300  # (height, width), up to 61100
FREE = InputInfo("x", ("N", "c", "h", "w"), np.dtype(np.float32))


def png(pixels: Array, kind: int, depth: int = 16) -> bytes:
    """Write a PNG file of raw pixels (height, width, channels); kind 0 is grey, 2 RGB, 4 grey with alpha, 6 RGBA."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = pixels.astype(">u2" if depth == 16 else "u1")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pixels: Array, *, order: str = "<") -> bytes:
    """Write a TIFF file of raw pixels (height, width) or (height, width, 3) in their own type."""
    channels = 1 if pixels.ndim == 2 else 3
    bits = 8 * pixels.dtype.itemsize
    form = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    behind = 8 + 2 + 12 * 10 + 4  # where the values stand that do not fit their entries
    tags = {
        256: (4, 1, pixels.shape[1]),
        257: (4, 1, pixels.shape[0]),
        258: (3, channels, bits if channels == 1 else behind),
        259: (3, 1, 1),
        262: (3, 1, 1 if channels == 1 else 2),
        273: (4, 1, behind + 4 * channels),
        277: (3, 1, channels),
        278: (4, 1, pixels.shape[0]),
        279: (4, 1, len(data)),
        339: (3, channels, form if channels == 1 else behind + 2 * channels),
    }
    entries = b""
    for tag, (kind, count, value) in tags.items():
        short = kind == 3 and count == 1
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        entries += (
            struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    lists = struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[form] * channels)
    return (
        head + struct.pack(f"{order}H", 10) + entries + struct.pack(f"{order}I", 0) + lists + data
    )


def pgm(pixels: Array, most: int) -> bytes:
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    size = f"{pixels.shape[1]} {pixels.shape[0]}\n{most}\n".encode()
    return kind + b"\n" + size + pixels.astype(">u2" if most > 255 else "u1").tobytes()


def read(folder: Path, name: str, content: bytes, steps: str, info: InputInfo = FREE) -> Array:
    (folder / name).write_bytes(content)
    (folder / "preprocess.yaml").write_text(steps)
    (batch,) = open_data(folder, [info])
    (image,) = batch.feeds["x"]
    return image


STORED = {
    "PNG, 16 bits": ("a.png", png(VALUES, 0), VALUES),
    "TIFF, 16 bits": ("a.tif", tiff(VALUES.astype(np.uint16)), VALUES),
    "TIFF, 16 bits, big-endian": ("a.tiff", tiff(VALUES.astype(np.uint16), order=">"), VALUES),
    "TIFF, 16 bits, signed": ("a.tif", tiff((VALUES - 30000).astype(np.int16)), VALUES - 30000),
    "TIFF, 16 bits, signed, big-endian": (
        "a.tif",
        tiff((VALUES - 30000).astype(np.int16), order=">"),
        VALUES - 30000,
    ),
    "TIFF, 8 bits, signed": (
        "a.tif",
        tiff((VALUES // 500 - 60).astype(np.int8)),
        VALUES // 500 - 60,
    ),
    "TIFF, 32 bits": ("a.tif", tiff((VALUES * 65536).astype(np.uint32)), VALUES * 65536),
    "TIFF, 32 bits, signed": ("a.tif", tiff((-VALUES * 256).astype(np.int32)), -VALUES * 256),
    "TIFF, float": ("a.tif", tiff((VALUES / 64 - 300).astype(np.float32)), VALUES / 64 - 300),
    "PGM, 16 bits": ("a.pgm", pgm(VALUES, 65535), VALUES),
    "PGM, 12 bits": ("a.pgm", pgm(VALUES // 16, 4095), VALUES // 16),
    "PGM, 10 bits": ("a.pgm", pgm(VALUES // 64, 1023), VALUES // 64),
    "PNG, 8 bits": ("a.png", png(VALUES // 256, 0, 8), VALUES // 256),
    "PGM, 8 bits": ("a.pgm", pgm(VALUES // 256, 255), VALUES // 256),
}


@pytest.mark.parametrize(("name", "content", "wanted"), STORED.values(), ids=STORED.keys())
def test_grey_values_are_those_that_are_stored(
    tmp_path: Path, name: str, content: bytes, wanted: Array
) -> None:
    got = read(tmp_path, name, content, "color: gray\n")
    np.testing.assert_array_equal(got, wanted[None].astype(np.float32))
    scaled = read(tmp_path, name, content, "color: RGB\nscale: 1/4096\nmean: [1, 2, 3]\nstd: 2\n")
    by_channel = [(wanted / 4096 - m) / 2 for m in (1, 2, 3)]
    np.testing.assert_allclose(scaled, np.stack(by_channel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest", "box"])
def test_resizing_and_cropping_keep_the_range(tmp_path: Path, how: str) -> None:
    """As for 8 bits, where these hold all values."""
    steps = f"color: gray\nresize: [12, 10]\ncrop: [8, 6]\ninterpolation: {how}\n"
    small = read(tmp_path, "a.png", png(VALUES // 256, 0, 8), steps)
    (tmp_path / "a.png").unlink()
    wide = read(tmp_path, "b.png", png(VALUES // 256 * 256, 0), steps)
    assert small.shape == wide.shape == (1, 8, 6)
    np.testing.assert_allclose(wide / 256, small, atol=1)
    assert wide.max() > 255


def test_the_short_side_rule_holds_for_them(tmp_path: Path) -> None:
    got = read(tmp_path, "a.png", png(VALUES, 0), "resize: 12\ncolor: gray\n")
    assert got.shape == (1, 12, 16)


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    [
        ("a.png", png(np.repeat(VALUES[..., None], 3, axis=2), 2), "RGB.*RGB;16B"),
        ("a.png", png(np.repeat(VALUES[..., None], 2, axis=2), 4), "LA;16B"),
        ("a.png", png(np.repeat(VALUES[..., None], 4, axis=2), 6), "RGBA.*RGBA;16B"),
        ("a.tif", tiff(np.repeat(VALUES[..., None], 3, axis=2).astype(np.uint16)), "RGB;16L"),
        ("a.ppm", pgm(np.repeat(VALUES[..., None], 3, axis=2), 65535), "RGB"),
    ],
    ids=["RGB", "grey with alpha", "RGBA", "TIFF", "PPM"],
)
def test_colours_of_16_bits_are_refused_by_their_mode(
    tmp_path: Path, name: str, content: bytes, mode: str
) -> None:
    with pytest.raises(DataError, match=rf"{name} has 16 bits a channel \(mode .*{mode}"):
        read(tmp_path, name, content, "scale: 1/65535\n")


@pytest.mark.parametrize("steps", ["", "resize: [12, 10]\n"])
def test_what_an_integer_input_cannot_hold_is_refused(tmp_path: Path, steps: str) -> None:
    bytes_in = InputInfo("x", ("N", 1, "h", "w"), np.dtype(np.uint8))
    with pytest.raises(
        DataError, match=r"values from .* to .* bits\) do not fit uint8; give a scale"
    ):
        read(tmp_path, "a.png", png(VALUES, 0), f"color: gray\n{steps}", bytes_in)
    got = read(tmp_path, "a.png", png(VALUES, 0), "color: gray\nscale: 1/257\n", bytes_in)
    np.testing.assert_array_equal(got, np.rint(VALUES[None] / 257).astype(np.uint8))
    words_in = InputInfo("x", ("N", 1, "h", "w"), np.dtype(np.uint16))
    got = read(tmp_path, "a.png", png(VALUES, 0), "color: gray\n", words_in)
    np.testing.assert_array_equal(got, VALUES[None])


def test_arrays_do_not_wrap_around_either(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("layout: NCHW\n")
    x = VALUES[None, None].astype(np.uint16)
    bytes_in = InputInfo("x", ("N", 1, 6, 8), np.dtype(np.uint8))
    with pytest.raises(DataError, match="do not fit uint8"):
        open_data({"x": x}, [bytes_in], preprocess=tmp_path / "p.yaml")


def test_depths_are_not_mixed_in_one_batch(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png(VALUES // 256, 0, 8))
    with pytest.raises(DataError, match=r"b\.png holds uint8, and .*a\.png uint16"):
        read(tmp_path, "a.png", png(VALUES, 0), "color: gray\n")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_8_bits_stay_pictures(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray((VALUES // 256).astype(np.uint8))
    picture = grey.convert("RGB").convert(mode)
    wanted = np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1)
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    picture.save(tmp_path / name)
    got = read(tmp_path, name, (tmp_path / name).read_bytes(), "scale: 1\n")
    np.testing.assert_array_equal(got, wanted)


def test_a_palette_with_transparent_colours_keeps_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray((VALUES // 256).astype(np.uint8)).convert("P")
    wanted = np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1)
    picture.save(tmp_path / "a.png", transparency=bytes(range(256)))
    got = read(tmp_path, "a.png", (tmp_path / "a.png").read_bytes(), "scale: 1\n")
    np.testing.assert_array_equal(got, wanted)


def test_a_damaged_wide_image_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        read(tmp_path, "a.png", png(VALUES, 0)[:-60], "color: gray\n")

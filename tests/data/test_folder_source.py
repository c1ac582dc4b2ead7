from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.data.open import Batches, InputInfo, open_data
from calibrant.errors import ConfigValueError, DataError, MissingPackageError

IMAGE = InputInfo("x", ("N", 3, 4, 5), np.dtype(np.float32))
A = InputInfo("model/a:0", ("N", 2), np.dtype(np.float32))
B = InputInfo("b", ("N", 3), np.dtype(np.float32))


def numbers(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def joined(batches: Batches, name: str = "x") -> np.ndarray[Any, Any]:
    return np.concatenate([b.feeds[name] for b in batches])


def ppm(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write (height, width, 3) uint8 without an image library."""
    path.write_bytes(f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes())


# ------------------------------------------------------------------------------------------- layouts


def test_files_are_taken_in_natural_order(tmp_path: Path) -> None:
    x = numbers(12, 3, 4, 5)
    for i, sample in enumerate(x):
        np.save(tmp_path / f"{i}.npy", sample if i % 2 else sample[None])
    batches = open_data(tmp_path, [IMAGE], batch_size=5)
    np.testing.assert_array_equal(joined(batches), x)
    assert [b.sample(1).rsplit("/", 1)[1] for b in batches] == ["1.npy", "6.npy", "11.npy"]


def test_one_folder_an_input(tmp_path: Path) -> None:
    a, b = numbers(4, 2), numbers(4, 3)
    for folder, values in (("model_a_0", a), ("b", b), ("labels", np.arange(4))):
        (tmp_path / folder).mkdir()
        for i, v in enumerate(values):
            np.save(tmp_path / folder / f"{i}.npy", v)
    batches = open_data(tmp_path, [A, B], batch_size=3)
    np.testing.assert_array_equal(joined(batches, "model/a:0"), a)
    np.testing.assert_array_equal(joined(batches, "b"), b)
    assert np.concatenate([x.extras["labels"] for x in batches]).tolist() == [0, 1, 2, 3]


def test_flat_files_with_the_index_in_front(tmp_path: Path) -> None:
    a, b = numbers(11, 2), numbers(11, 3)
    for i in range(11):
        np.save(tmp_path / f"b{i}_model_a_0.npy", a[i : i + 1])
        np.save(tmp_path / f"b{i}_b.npy", b[i : i + 1])
    batches = open_data(tmp_path, [A, B])
    np.testing.assert_array_equal(joined(batches, "model/a:0"), a)
    np.testing.assert_array_equal(joined(batches, "b"), b)
    (tmp_path / "b7_b.npy").unlink()
    with pytest.raises(DataError, match="index 7 is there"):
        open_data(tmp_path, [A, B])


def test_archives_with_all_inputs(tmp_path: Path) -> None:
    a, b = numbers(6, 2), numbers(6, 3)
    for k in range(3):
        rows = slice(2 * k, 2 * k + 2)
        arrays: dict[str, Any] = {"model/a:0": a[rows], "b": b[rows], "labels": np.arange(2)}
        np.savez(tmp_path / f"{k}.npz", **arrays)
    batches = open_data(tmp_path, [A, B], batch_size=4)
    np.testing.assert_array_equal(joined(batches, "model/a:0"), a)
    np.testing.assert_array_equal(joined(batches, "b"), b)
    assert np.concatenate([x.extras["labels"] for x in batches]).tolist() == [0, 1] * 3


def test_sequences_of_different_length_are_fed_one_by_one(tmp_path: Path) -> None:
    ids = InputInfo("ids", ("N", "seq"), np.dtype(np.int64))
    for i, length in enumerate((3, 5, 4)):
        np.save(tmp_path / f"{i}.npy", np.arange(length)[None])
    assert [b.feeds["ids"].shape for b in open_data(tmp_path, [ids])] == [(1, 3), (1, 5), (1, 4)]
    with pytest.raises(DataError, match="Use batch size 1"):
        list(open_data(tmp_path, [ids], batch_size=2))


@pytest.mark.parametrize(
    ("names", "inputs", "text"),
    [
        ([], [IMAGE], "holds no samples"),
        (["readme.txt"], [IMAGE], "holds no samples"),
        (["0.npy", "1.bin"], [IMAGE], r"mixes \.bin and \.npy files"),
        (["0.npy"], [A, B], r"make a sub-folder for each \(model_a_0/0.npy, b/0.npy\)"),
        (["b/0.npy"], [A, B], "no array for model input 'model/a:0'"),
        (["bb/0.npy"], [B], "sub-folder for each input .*Did you mean 'bb'"),
    ],
)
def test_wrong_folders_are_explained(
    tmp_path: Path, names: list[str], inputs: list[InputInfo], text: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, numbers(1, 3, 4, 5)) if name.endswith("y") else (
            tmp_path / name
        ).touch()
    with pytest.raises(DataError, match=text):
        open_data(tmp_path, inputs)


def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full((3, 4, 5), np.nan if i == 2 else 0, np.float32))
    with pytest.raises(DataError, match=r"2\.npy: input 'x' holds NaN"):
        list(open_data(tmp_path, [IMAGE]))
    np.save(tmp_path / "2.npy", numbers(3, 4, 6))
    with pytest.raises(DataError, match=r"2\.npy"):
        list(open_data(tmp_path, [IMAGE], batch_size=1))


def test_other_files_are_mentioned(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", numbers(3, 4, 5))
    (tmp_path / "notes.md").touch()
    assert "notes.md" in open_data(tmp_path, [IMAGE]).notes[0]


# ------------------------------------------------------------------------------------------- .bin


def test_a_bare_bin_file_is_cut_into_samples(tmp_path: Path) -> None:
    x = numbers(3, 3, 4, 5)
    x.astype("<f4").tofile(tmp_path / "all.bin")
    np.testing.assert_array_equal(joined(open_data(tmp_path, [IMAGE])), x)
    np.testing.assert_array_equal(joined(open_data(tmp_path / "all.bin", [IMAGE])), x)
    with (tmp_path / "all.bin").open("ab") as f:
        f.write(b"\0\0")
    with pytest.raises(DataError, match="722 bytes, which is no multiple of the 240 bytes"):
        open_data(tmp_path, [IMAGE])


def test_a_headed_bin_file_says_its_own_shape(tmp_path: Path) -> None:
    """A BINARY file of the older converter: five little-endian int32, then float32."""
    x = numbers(2, 3, 4, 5)
    (tmp_path / "0.bin").write_bytes(struct.pack("<5i", 510, 2, 3, 4, 5) + x.tobytes())
    open_shape = InputInfo("x", ("N", 3, "h", "w"), np.dtype(np.float32))
    for info in (IMAGE, open_shape):
        np.testing.assert_array_equal(joined(open_data(tmp_path, [info])), x)
    wrong = InputInfo("x", ("N", 3, 5, 4), np.dtype(np.float32))
    (tmp_path / "0.bin").write_bytes(struct.pack("<5i", 510, 2, 3, 4, 5) + x.tobytes()[:-4])
    with pytest.raises(DataError, match="no multiple"):
        open_data(tmp_path, [wrong])


def test_a_headless_file_that_begins_with_the_magic_number_is_bare(tmp_path: Path) -> None:
    ids = InputInfo("ids", ("N", 6), np.dtype(np.int32))
    np.arange(510, 522, dtype="<i4").tofile(tmp_path / "0.bin")
    assert (
        joined(open_data(tmp_path, [ids]), "ids").tolist()
        == np.arange(510, 522).reshape(2, 6).tolist()
    )


def test_a_bare_file_needs_fixed_dimensions(tmp_path: Path) -> None:
    numbers(2, 7).tofile(tmp_path / "0.bin")
    with pytest.raises(DataError, match="leaves dimensions open"):
        open_data(tmp_path, [InputInfo("x", ("N", "k"), np.dtype(np.float32))])


def test_raw_bytes_become_floats_through_a_preprocessing_file(tmp_path: Path) -> None:
    pixels = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)
    pixels.tofile(tmp_path / "0.bin")
    steps = {
        "source_dtype": "uint8",
        "source_layout": "NHWC",
        "layout": "NCHW",
        "mean": [1, 2, 3],
        "scale": 2,
    }
    (tmp_path / "preprocess.json").write_text(json.dumps(steps))
    want = (pixels * np.float32(2) - np.array([1, 2, 3], np.float32)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(joined(open_data(tmp_path, [IMAGE])), want)


# -------------------------------------------------------------------------------------- preprocessing


def test_stored_arrays_are_normalized(tmp_path: Path) -> None:
    """value = (pixel * scale - mean) / std, by channel, then NHWC to NCHW."""
    stored = np.random.default_rng(0).integers(0, 256, (5, 4, 5, 3), np.uint8)
    np.savez(tmp_path / "c.npz", x=stored)
    (tmp_path / "p.yaml").write_text(
        "scale: 1/255\nmean: [0.5, 0.4, 0.3]\nstd: [0.1, 0.2, 0.3]\nsource_layout: NHWC\nlayout: NCHW\n"
    )
    got = joined(open_data(tmp_path / "c.npz", [IMAGE], preprocess=tmp_path / "p.yaml"))
    want = (stored / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3]
    np.testing.assert_allclose(got, want.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    streamed = open_data([{"x": stored}], [IMAGE], preprocess=tmp_path / "p.yaml")
    np.testing.assert_array_equal(joined(streamed), got)


def test_sections_of_inputs_override_and_others_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("inputs:\n  b: {scale: 2}\n")
    data = {"model/a:0": numbers(2, 2), "b": numbers(2, 3)}
    (batch,) = open_data(data, [A, B], preprocess=tmp_path / "p.yaml")
    np.testing.assert_array_equal(batch.feeds["model/a:0"], data["model/a:0"])
    np.testing.assert_array_equal(batch.feeds["b"], data["b"] * 2)
    (tmp_path / "p.yaml").write_text("scale: 3\ninputs:\n  b: {scale: 2}\n")
    (batch,) = open_data(data, [A, B], preprocess=tmp_path / "p.yaml")
    np.testing.assert_array_equal(batch.feeds["model/a:0"], data["model/a:0"] * 3)
    np.testing.assert_array_equal(batch.feeds["b"], data["b"] * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meen: 1", "'meen' is not known.*Did you mean 'mean'"),
        ("crop: 0", "crop is 0; "),
        ("std: [1, 0, 1]", "std is .*0 divides by zero"),
        ("mean: [1, 2]", "mean has 2 values for 3 channels"),
        ("layout: CHW", "layout is 'CHW'"),
        ("inputs: {y: {mean: 1}}", "inputs names 'y'"),
        ("inputs: {x: {meen: 1}}", "'inputs.x.meen' is not known"),
        ("- mean", "is a mapping of keys"),
        ("mean: [", "is not valid YAML"),
        ("resize: 8", "need images, uint8 arrays"),
    ],
)
def test_faulty_preprocessing_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigValueError, match=message):
        open_data({"x": numbers(2, 3, 4, 5)}, [IMAGE], preprocess=tmp_path / "p.yaml")


def test_a_preprocessing_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigValueError, match=r"'.*gone.yaml' cannot be read: No such file"):
        open_data({"x": numbers(2, 3, 4, 5)}, [IMAGE], preprocess=tmp_path / "gone.yaml")


# ------------------------------------------------------------------------------------------- images


def test_images_become_samples(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    for i, image in enumerate(pixels):
        ppm(tmp_path / f"{i}.ppm", image)
    (tmp_path / "preprocess.yaml").write_text("color: BGR\nmean: 128\nstd: 2\n")
    got = joined(open_data(tmp_path, [IMAGE], batch_size=2))
    np.testing.assert_array_equal(
        got, (pixels[..., ::-1].transpose(0, 3, 1, 2) - np.float32(128)) / 2
    )
    last = InputInfo("x", ("N", 4, 5, 3), np.dtype(np.uint8))
    (tmp_path / "preprocess.yaml").write_text("layout: NHWC\n")
    np.testing.assert_array_equal(joined(open_data(tmp_path, [last])), pixels)


@pytest.mark.parametrize(
    ("size", "steps", "shape"),
    [
        ((10, 20), "resize: 8", (3, 8, 16)),
        ((20, 10), "resize: 8", (3, 16, 8)),
        ((9, 20), "resize: 8", (3, 8, 17)),
        ((10, 20), "resize: [6, 7]\ninterpolation: nearest", (3, 6, 7)),
        ((10, 20), "resize: 8\ncrop: [5, 6]", (3, 5, 6)),
        ((10, 20), "crop: 4\ncolor: gray", (1, 4, 4)),
    ],
)
def test_resize_and_crop_give_the_size(
    tmp_path: Path, size: tuple[int, int], steps: str, shape: tuple[int, ...]
) -> None:
    pytest.importorskip("PIL")
    ppm(tmp_path / "0.ppm", np.zeros((*size, 3), np.uint8))
    (tmp_path / "preprocess.yaml").write_text(steps)
    free = InputInfo("x", ("N", "c", "h", "w"), np.dtype(np.float32))
    (batch,) = open_data(tmp_path, [free])
    assert batch.feeds["x"].shape == (1, *shape)


def test_the_crop_is_the_centre(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[2:4, 3:5] = 200
    ppm(tmp_path / "0.ppm", pixels)
    (tmp_path / "preprocess.yaml").write_text("crop: 2\n")
    free = InputInfo("x", ("N", 3, "h", "w"), np.dtype(np.float32))
    assert (joined(open_data(tmp_path, [free])) == 200).all()
    (tmp_path / "preprocess.yaml").write_text("crop: 7\n")
    with pytest.raises(ConfigValueError, match="crop 7 x 7 is larger than the image, 6 x 8"):
        open_data(tmp_path, [free])


def test_stored_images_are_resized_like_files(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), np.uint8)
    for i, image in enumerate(pixels):
        ppm(tmp_path / f"{i}.ppm", image)
    (tmp_path / "preprocess.yaml").write_text("resize: [4, 5]\nsource_layout: NHWC\n")
    stored = open_data({"x": pixels}, [IMAGE], preprocess=tmp_path / "preprocess.yaml")
    np.testing.assert_array_equal(joined(stored), joined(open_data(tmp_path, [IMAGE])))


def test_images_without_a_preprocessing_file_are_refused(tmp_path: Path) -> None:
    ppm(tmp_path / "0.ppm", np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DataError, match="nothing says how to turn it into input 'x: float32"):
        open_data(tmp_path, [IMAGE])


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "preprocess.yaml").write_text("mean: 0\n")
    with pytest.raises(DataError, match=r"cat\.jpg cannot be read as an image"):
        open_data(tmp_path, [IMAGE])


def test_images_without_pillow_name_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppm(tmp_path / "0.ppm", np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "preprocess.yaml").write_text("mean: 0\n")
    monkeypatch.delitem(sys.modules, "calibrant.data.images", raising=False)
    monkeypatch.delattr("calibrant.data.images", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r'pip install "calibrant\[images\]"'):
        open_data(tmp_path, [IMAGE])


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("text", ["3\n1\n", "# classes\n1.npy 1\n0.npy 3\n", "0.npy,3\n1.npy,1\n"])
def test_labels_beside_the_samples(tmp_path: Path, text: str) -> None:
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", numbers(3, 4, 5))
    (tmp_path / "labels.txt").write_text(text)
    (batch,) = open_data(tmp_path, [IMAGE], batch_size=2)
    assert batch.extras["labels"].tolist() == [3, 1]


def test_faulty_labels_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", numbers(3, 4, 5))
    (tmp_path / "labels.txt").write_text("0.npy cat\n")
    with pytest.raises(DataError, match=r"labels.txt:1: 'cat' is no class number"):
        open_data(tmp_path, [IMAGE])
    (tmp_path / "labels.txt").write_text("1.npy 3\n")
    with pytest.raises(DataError, match=r"no line for '0.npy'"):
        open_data(tmp_path, [IMAGE])

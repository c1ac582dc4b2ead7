"""A folder with one sub-folder a class is an image data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.data.open import InputInfo, open_data
from calibrant.errors import DataError
from tests.models import build, normal

Image = pytest.importorskip("PIL.Image")

INFO = InputInfo("image", ("N", 3, 4, 4), np.dtype(np.float32))
STEPS = "scale: 1/255\n"


def dataset(folder: Path, classes: dict[str, list[int]]) -> Path:
    """Write one image of one grey value for each number."""
    folder.mkdir(exist_ok=True)
    for name, values in classes.items():
        (folder / name).mkdir()
        for i, value in enumerate(values):
            pixels = np.full((4, 4, 3), value, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    (folder / "preprocess.yaml").write_text(STEPS)
    return folder


def seen(folder: Path) -> tuple[list[int], list[int]]:
    batches = list(open_data(folder, [INFO]))
    values = np.concatenate([b.feeds["image"][:, 0, 0, 0] for b in batches]) * 255
    labels = np.concatenate([b.extras["labels"] for b in batches])
    return np.rint(values).astype(int).tolist(), labels.tolist()


def test_labels_are_the_sorted_names_and_classes_take_turns(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"rose": [10, 11, 12], "daisy": [20], "tulip": [30, 31]})
    assert seen(folder) == ([20, 10, 30, 11, 31, 12], [0, 1, 2, 1, 2, 1])


def test_names_are_sorted_sign_by_sign(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"2": [2], "10": [10], "1": [1]})
    assert seen(folder) == ([1, 10, 2], [0, 1, 2])


def test_images_of_a_class_are_in_natural_order(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"a": list(range(12))})
    assert seen(folder)[0] == list(range(12))


def test_it_can_be_evaluated(tmp_path: Path) -> None:
    """A model that sorts by brightness is right on all but one of five."""
    folder = dataset(tmp_path / "d", {"dark": [10, 30, 200], "light": [240, 250]})
    model, _ = build(
        """net (float[N,3,4,4] image) => (float[N,2] y) {
            mean = ReduceMean <axes = [1,2,3], keepdims = 0> (image)
            column = Unsqueeze (mean, one)
            scores = MatMul (column, w)
            y = Add (scores, b)
        }""",
        {
            "one": np.array([1]),
            "w": np.array([[-1, 1]], np.float32),
            "b": np.array([0.5, -0.5], np.float32),
        },
        normal(3, 4, 4),
    )
    onnx.save(model, tmp_path / "m.onnx")
    found = calibrant.evaluate(tmp_path / "m.onnx", folder, "top1")
    assert found.value == pytest.approx(0.8)
    assert found.samples == 5


def test_what_is_no_class_is_said(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"rose": [10], "daisy": [20]})
    (folder / "readme.md").write_text("flowers")
    (folder / ".cache").mkdir()
    batches = open_data(folder, [INFO])
    assert batches.samples == 2
    assert any("readme.md" in n for n in batches.notes)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images, and sub-folders beside it do"):
        open_data(folder, [INFO])


def test_labels_are_said_once(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"rose": [10], "daisy": [20]})
    (folder / "labels.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match=r"has labels.txt, and a sub-folder for each class"):
        open_data(folder, [INFO])


def test_a_folder_of_the_input_is_no_class(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"image": [10, 20]})
    (batch,) = open_data(folder, [INFO])
    assert batch.extras == {}
    wrong = dataset(tmp_path / "e", {"imagee": [10, 20]})
    with pytest.raises(DataError, match="Did you mean 'imagee'"):
        open_data(wrong, [INFO])


def test_images_beside_the_sub_folders_come_first(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"other": [10, 20]})
    Image.fromarray(np.full((4, 4, 3), 99, np.uint8)).save(folder / "own.png")
    batches = open_data(folder, [INFO])
    assert batches.samples == 1
    assert any("other" in n for n in batches.notes)


def test_several_inputs_have_no_classes(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", {"rose": [10], "daisy": [20]})
    second = InputInfo("second", ("N", 2), np.dtype(np.float32))
    with pytest.raises(DataError, match="holds no samples"):
        open_data(folder, [INFO, second])

"""Grids that were chosen from data prepared in another way are told by their ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import calibrant
from calibrant.analysis.preparations import KNOWN, between
from calibrant.diagnose import rank
from tests.models import NETS, sabotaged

IMAGE = (3, 32, 32)
IMAGENET = KNOWN[3]


def ends(x: np.ndarray, *, even: bool = False) -> tuple[float, float]:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    most = max(-low, high)
    return (-most, most) if even else (low, high)


def images(seed: int, dark: float = 1.0) -> np.ndarray:
    """Return images of 0 to 1, (samples, C, H, W)."""
    return np.random.default_rng(seed).beta(0.6, 0.8, (8, *IMAGE)) * dark


def normalized(x: np.ndarray) -> np.ndarray:
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    return (x - mean) / std


CHANGES = {
    "255": (lambda x: x, lambda x: x * 255, KNOWN[0], False),
    "1": (lambda x: x * 255, lambda x: x, KNOWN[0], True),
    "twice": (normalized, lambda x: normalized(normalized(x)), IMAGENET, True),
    "not at all": (normalized, lambda x: x, IMAGENET, False),
    "to -1 to 1 twice": (lambda x: 2 * x - 1, lambda x: 4 * x - 3, KNOWN[2], True),
}


@pytest.mark.parametrize("even", [False, True], ids=["grid", "even grid"])
@pytest.mark.parametrize("how", CHANGES)
def test_the_step_between_is_told(how: str, even: bool) -> None:
    right, wrong, step, forward = CHANGES[how]
    x, y = right(images(1)), wrong(images(2))
    found = between((x.min(), x.max()), ends(y, even=even), IMAGE)
    if even and how in ("to -1 to 1 twice", "not at all"):
        assert found is None  # one number, a factor that other photographs may differ by
        return
    assert found is not None
    assert found[1] == forward
    if not even:
        assert found[0] is step


@pytest.mark.parametrize("even", [False, True], ids=["grid", "even grid"])
@pytest.mark.parametrize("dark", [1.0, 0.7, 0.5])
@pytest.mark.parametrize(
    "prepare", [lambda x: x, lambda x: 255 * x, lambda x: 2 * x - 1, normalized]
)
def test_data_that_is_right_is_silent(
    prepare: Callable[[np.ndarray], np.ndarray], dark: float, even: bool
) -> None:
    x, y = prepare(images(1, dark)), prepare(images(2))
    assert between((x.min(), x.max()), ends(y, even=even), IMAGE) is None


@pytest.mark.parametrize("factor", [0.1, 0.229, 0.25, 0.5, 2, 4, 4.37, 8, 16])
@pytest.mark.parametrize("shape", [(1, 40, 60), (16, 64), (8, 8, 16), (64,)])
def test_values_without_natural_ends_may_be_larger(factor: float, shape: tuple[int, ...]) -> None:
    """Spectrograms, features: other samples of the same kind may reach much farther."""
    x = np.random.default_rng(0).standard_normal((8, *shape)) * 20
    y = x * factor
    for even in (False, True):
        assert between((x.min(), x.max()), ends(y, even=even), shape) is None


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "twice"])
def test_a_model_calibrated_with_data_normalized_twice(wrong: bool) -> None:
    model, _ = NETS["residual"]()
    feeds = sabotaged.smooth_images()
    x = {"x": normalized(feeds(batch=16, seed=1)["x"]).astype(np.float32)}
    ranges = {"x": normalized(x["x"]).astype(np.float32)} if wrong else x
    quantized = calibrant.quantize(model, ranges, rank.PLAIN).deploy
    found = calibrant.compare(model, quantized, x)
    first = found.worst_first[0]
    assert first.lost_input == wrong
    assert any("once too often" in n for n in found.notes) == wrong
    if wrong:
        assert first.born is not None
        assert first.born.cause == "range"
        assert "conv" in first.name


def test_an_input_that_is_moved_before_it_is_rounded() -> None:
    """The pixels of a square become channels (Focus, SpaceToDepth): the grid stands behind that."""
    weight = np.random.default_rng(0).standard_normal((8, 12, 3, 3)).astype(np.float32) / 10
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        focus (float[N, 3, 16, 16] x) => (float[N, 8, 8, 8] y) {
            even = Slice (x, zero, most, rows, two)
            odd = Slice (x, one, most, rows, two)
            both = Concat <axis = 1> (even, odd)
            squares = Slice (both, zero, most, columns, two)
            others = Slice (both, one, most, columns, two)
            all = Concat <axis = 1> (squares, others)
            [conv] y = Conv <pads = [1, 1, 1, 1]> (all, w)
        }"""
    )
    numbers = {"zero": 0, "one": 1, "most": 2**31, "rows": 2, "columns": 3, "two": 2}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([v]), n) for n, v in numbers.items()
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = normalized(images(1)[:, :, :16, :16]).astype(np.float32)
    quantized = calibrant.quantize(
        model, {"x": normalized(x).astype(np.float32)}, rank.PLAIN
    ).deploy
    found = calibrant.compare(model, quantized, {"x": x})
    first = found.worst_first[0]
    assert first.name == "conv"
    assert first.lost_input
    assert any("once too often" in n for n in found.notes)

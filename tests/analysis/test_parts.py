"""Outputs are judged by their parts: found in the graph, else by size; every value belongs to one part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.analysis.parts import Part, find_parts, parts_by_size, parts_of
from calibrant.errors import DataError, ModelError
from tests.models import build, normal
from tests.road import prepared

Array = npt.NDArray[Any]

RNG = np.random.default_rng(0)


def columns(*sizes: float, rows: int = 50) -> Array:
    """Return normal values (rows, columns) of these sizes."""
    return (RNG.normal(size=(rows, len(sizes))) * sizes).astype(np.float32)


def names(parts: tuple[Part, ...]) -> list[str]:
    return [p.name for p in parts]


DETECTOR = """g (float[N, 3, 4, 4] x) => (float[N, 16, 9] y, float[N, 3] plain)
{
  b = Conv(x, w4)  c = Conv(x, w5)  s = Sigmoid(c)
  pixels = Mul(b, size)
  all = Concat<axis = 1>(pixels, s)
  flat = Reshape(all, rows)
  y = Transpose<perm = [0, 2, 1]>(flat)
  pooled = GlobalAveragePool(x)
  plain = Flatten(pooled)
}"""

WEIGHTS = {
    "w4": np.ones((4, 3, 1, 1), np.float32),
    "w5": np.ones((5, 3, 1, 1), np.float32),
    "size": np.float32(640),
    "rows": np.array([0, 9, -1]),
}


def test_boxes_and_scores_are_parts_with_readable_names() -> None:
    model = prepared(build(DETECTOR, WEIGHTS, normal(3, 4, 4)))
    found = find_parts(model, ["y", "plain", "all"])
    assert names(found["y"]) == ["y[..., 0:4]", "y[..., 4:9]"]
    assert found["plain"] == (Part("plain"),)
    assert names(found["all"]) == ["all[:, 0:4]", "all[:, 4:9]"]
    x = RNG.normal(size=(2, 16, 9))
    np.testing.assert_array_equal(found["y"][1].take(x), x[..., 4:])
    assert found["plain"][0].take(x) is x


def test_an_unknown_tensor_is_refused_with_a_near_name() -> None:
    model = prepared(build(DETECTOR, WEIGHTS, normal(3, 4, 4)))
    with pytest.raises(ModelError, match=r"no tensor 'plian'.*'plain'"):
        find_parts(model, ["plian"])


def test_rare_classes_are_no_part_of_their_own() -> None:
    model = prepared(build(DETECTOR, WEIGHTS, normal(3, 4, 4)))
    scores = np.abs(columns(1e-5, 1e-1, 1e-5, 1e-1, 1e-1, rows=160)).reshape(10, 16, 5)
    boxes = columns(300, 300, 300, 300, rows=160).reshape(10, 16, 4)
    y = np.concatenate([boxes, scores], axis=2)
    assert names(parts_of(model, "y", [y])) == ["y[..., 0:4]", "y[..., 4:9]"]
    assert len(parts_by_size([scores])) == 1  # the small classes are no neighbours
    last = np.concatenate([scores[..., [1, 3, 4]], scores[..., [0, 2]]], axis=2)
    assert names(parts_by_size([last])) == ["output[..., 0:3]", "output[..., 3:5]"]
    sorted_scores = np.concatenate([boxes, last], axis=2)
    assert names(parts_of(model, "y", [sorted_scores])) == ["y[..., 0:4]", "y[..., 4:9]"]


def test_a_part_of_the_graph_is_divided_by_size() -> None:
    model = prepared(build(DETECTOR, WEIGHTS, normal(3, 4, 4)))
    boxes = columns(300, 300, 3, 4, rows=160).reshape(10, 16, 4)
    y = np.concatenate([boxes, np.full((10, 16, 5), 0.5, np.float32)], axis=2)
    found = parts_of(model, "y", [y[:5], y[5:]])
    assert names(found) == ["y[..., 0:2]", "y[..., 2:4]", "y[..., 4:9]"]
    np.testing.assert_array_equal(found[1].take(y), y[..., 2:4])


def test_the_axis_on_which_a_layer_answers_is_the_axis_of_columns() -> None:
    graph = """g (float[N, 3, 8] x) => (float[N, 3, 8] y) { y = Conv(x, w) }"""
    model = prepared(build(graph, {"w": np.ones((3, 3, 1), np.float32)}, normal(3, 8)))
    y = columns(100, 1, 1, rows=80).reshape(10, 8, 3).transpose(0, 2, 1)
    assert names(parts_of(model, "y", [y])) == ["y[:, 0]", "y[:, 1:3]"]


@pytest.mark.parametrize(
    ("sizes", "bounds"),
    [
        ((640, 500, 300, 600, 1), ["0:4", "4"]),
        ((0.01, 0.01, 1000, 900, 1, 1), ["0:2", "2:4", "4:6"]),
        ((640, 0, 300, 1, 0, 1), ["0:3", "3:6"]),
        ((1, 2, 3, 4, 0.5), []),
        ((100, 1, 100, 1), []),
        ((256, 128, 64, 32, 16, 8, 4, 2, 1), []),
        ((1, 0, 0), []),
        ((0, 0), []),
        ((5,), []),
    ],
)
def test_columns_of_very_different_size(sizes: tuple[float, ...], bounds: list[str]) -> None:
    wanted = [f"output[..., {b}]" for b in bounds] or ["output"]
    assert names(parts_by_size([columns(*sizes)])) == wanted
    assert names(parts_by_size([columns(*sizes) * 1e-30, columns(*sizes) * 1e-30])) == wanted


def test_maps_have_their_columns_on_axis_1() -> None:
    x = columns(100, 1, 1, rows=64).reshape(4, 4, 4, 3)
    assert names(parts_by_size([x.transpose(0, 3, 1, 2)])) == ["output[:, 0]", "output[:, 1:3]"]
    assert len(parts_by_size([x])) == 1


@pytest.mark.parametrize(
    "reference",
    [
        [],
        [np.float32(3)],
        [np.zeros(5, np.float32)],
        [np.zeros((0, 5), np.float32)],
        [np.zeros((5, 0), np.float32)],
        [np.array([[1, 1000]] * 9)],
        [np.array([["a", "b"]] * 9)],
        [columns(100, 1, rows=3)],
        [columns(100, 1), columns(100, 1, 1)],
        [columns(100, 1), np.float32(1)],
        [np.full((9, 2), np.nan, np.float32)],
    ],
    ids=lambda x: "-".join(f"{np.asarray(a).dtype}{np.shape(a)}" for a in x) or "none",
)
def test_where_columns_say_nothing_there_is_one_part(reference: list[Array]) -> None:
    assert parts_by_size(reference, "t") == (Part("t"),)


def test_values_that_are_not_finite_do_not_make_parts() -> None:
    x = columns(100, 90, 1)
    x[3, 2], x[4, 0] = np.inf, np.nan
    assert names(parts_by_size([x])) == ["output[..., 0:2]", "output[..., 2]"]


def test_an_array_with_too_few_axes_is_refused() -> None:
    with pytest.raises(DataError, match="axis 2; the array has 1"):
        Part("y[..., 0:4]", ((2, ((0, 4),)),)).take(np.zeros(3))


@given(
    st.lists(st.sampled_from([0.0, 1e-3, 1.0, 50.0, 1e4]), min_size=1, max_size=12),
    st.integers(4, 9),
)
def test_every_value_belongs_to_one_part(sizes: list[float], rows: int) -> None:
    x = columns(*sizes, rows=rows)
    parts = parts_by_size([x])
    np.testing.assert_array_equal(np.concatenate([p.take(x) for p in parts], axis=1), x)
    assert len({p.name for p in parts}) == len(parts)

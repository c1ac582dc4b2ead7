"""What tensors are put together from: every block holds the values of its sources and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibrant.graph.load import load, prepare
from calibrant.graph.regions import Layout, layout_of
from tests.models import build, normal

Array = npt.NDArray[Any]


def layout(graph: str, *, output: int = 0, **weights: Any) -> Layout:
    """Return the layout of an output of a graph in ONNX text."""
    model, _ = build(graph, weights, normal(1))
    found = layout_of(prepare(load(model)).graph.outputs[output])
    assert found is not None
    return found


def where(found: Layout) -> list[dict[int, tuple[tuple[int, int | None], ...]]]:
    """Return what each block takes."""
    return [dict(r.where) for r in found.regions]


def test_what_two_layers_answer_at_a_position_stays_apart() -> None:
    found = layout(
        """g (float[N, 3, 8, 8] x) => (float[N, 6, 8, 8] y)
        { a = Conv(x, w4)  b = Conv(x, w2)  y = Concat<axis = 1>(a, b) }""",
        w4=np.ones((4, 3, 1, 1), np.float32),
        w2=np.ones((2, 3, 1, 1), np.float32),
    )
    assert where(found) == [{1: ((0, 4),)}, {1: ((4, 6),)}]
    assert found.roles == ("position", "feature", "position", "position")


PYRAMID = """g (float[N, 3, H, W] x) => (float[N, P, 7] y)
{
  low = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)
  box1 = Conv(x, w4)      box2 = Conv(low, w4)
  obj1 = Conv(x, w1)      obj2 = Conv(low, w1)
  cls1 = Conv(x, w2)      cls2 = Conv(low, w2)
  o1 = Sigmoid(obj1)      o2 = Sigmoid(obj2)
  c1 = Sigmoid(cls1)      c2 = Sigmoid(cls2)
  level1 = Concat<axis = 1>(box1, o1, c1)
  level2 = Concat<axis = 1>(box2, o2, c2)
  flat1 = Reshape(level1, rows)
  flat2 = Reshape(level2, rows)
  all = Concat<axis = 2>(flat1, flat2)
  y = Transpose<perm = [0, 2, 1]>(all)
}"""


@pytest.mark.parametrize("size", ["H, W", "8, 8"])
def test_levels_of_a_pyramid_are_joined(size: str) -> None:
    found = layout(
        PYRAMID.replace("H, W", size),
        w4=np.ones((4, 3, 1, 1), np.float32),
        w1=np.ones((1, 3, 1, 1), np.float32),
        w2=np.ones((2, 3, 1, 1), np.float32),
        rows=np.array([0, 7, -1]),
    )
    assert where(found) == [{2: ((0, 4),)}, {2: ((4, 5),)}, {2: ((5, 7),)}]
    assert [r.kind for r in found.regions] == [("Conv",), ("Conv", "Sigmoid"), ("Conv", "Sigmoid")]
    assert [len(r.sources) for r in found.regions] == [2, 2, 2]


def test_levels_whose_channels_come_last_are_joined() -> None:
    found = layout(
        """g (float[N, 3, 8, 8] x) => (float[N, 160, 4] boxes, float[N, 160, 2] scores)
        {
          low = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
          b1 = Conv(x, w8)  b1t = Transpose<perm = [0, 2, 3, 1]>(b1)  b1r = Reshape(b1t, four)
          b2 = Conv(low, w8)  b2t = Transpose<perm = [0, 2, 3, 1]>(b2)  b2r = Reshape(b2t, four)
          boxes = Concat<axis = 1>(b1r, b2r)
          s1 = Conv(x, w4)  s1t = Transpose<perm = [0, 2, 3, 1]>(s1)  s1r = Reshape(s1t, two)
          s2 = Conv(low, w4)  s2t = Transpose<perm = [0, 2, 3, 1]>(s2)  s2r = Reshape(s2t, two)
          s = Concat<axis = 1>(s1r, s2r)
          scores = Softmax<axis = 2>(s)
        }""",
        w8=np.ones((8, 3, 1, 1), np.float32),
        w4=np.ones((4, 3, 1, 1), np.float32),
        four=np.array([0, -1, 4]),
        two=np.array([0, -1, 2]),
    )
    assert where(found) == [{}]
    assert found.dims == ("N", 160, 4)


DECODE = """g (float[N, 3, 4, 4] x) => (float[N, 48, 7] y)
{
  head = Conv(x, w)
  five = Reshape(head, split_anchors)
  last = Transpose<perm = [0, 1, 3, 4, 2]>(five)
  all = Sigmoid(last)
  xy, wh, conf = Split<axis = 4>(all, sizes)
  two = Mul(xy, double)
  there = Add(two, grid)
  pixels = Mul(there, stride)
  twice = Mul(wh, double)
  square = Pow(twice, double)
  size = Mul(square, anchors)
  joined = Concat<axis = 4>(pixels, size, conf)
  y = Reshape(joined, rows)
}"""


def test_boxes_decoded_inside_the_model_are_parts_of_their_own() -> None:
    grid = np.zeros((1, 1, 4, 4, 2), np.float32)
    found = layout(
        DECODE,
        w=np.ones((21, 3, 1, 1), np.float32),
        split_anchors=np.array([0, 3, 7, 4, 4]),
        sizes=np.array([2, 2, 3]),
        double=np.float32(2),
        grid=grid,
        stride=np.float32(8),
        anchors=np.ones((1, 3, 1, 1, 2), np.float32),
        rows=np.array([0, -1, 7]),
    )
    assert where(found) == [{2: ((0, 2),)}, {2: ((2, 4),)}, {2: ((4, 7),)}]
    assert found.regions[2].kind == ("Conv", "Sigmoid")


def test_flattened_maps_of_two_kinds_take_ranges_of_a_vector() -> None:
    found = layout(
        """g (float[N, 3, 2, 2] x) => (float[N, 24] y)
        {
          a = Conv(x, w)  b = Conv(x, w)  c = Conv(x, w)
          s = Sigmoid(b)
          fa = Flatten(a)  fs = Flatten(s)  fc = Flatten(c)
          y = Concat<axis = 1>(fa, fs, fc)
        }""",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    assert where(found) == [{1: ((0, 8), (16, 24))}, {1: ((8, 16),)}]


def test_what_layers_mix_is_one_block() -> None:
    mixed = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
        { a = Conv(x, w)  b = Conv(x, w)  ab = Concat<axis = 1>(a, b)  r = Conv(x, v)  y = Add(ab, r) }"""
    w, v = np.ones((2, 3, 1, 1), np.float32), np.ones((4, 3, 1, 1), np.float32)
    assert where(layout(mixed, w=w, v=v)) == [{}]
    masked = mixed.replace("r = Conv(x, v)  y = Add(ab, r)", "m = Conv(x, v)  y = Mul(ab, m)")
    assert len(where(layout(masked, w=w, v=np.ones((1, 3, 1, 1), np.float32)))) == 2
    assert where(layout(mixed.replace("Add(ab, r)", "Softmax<axis = 1>(ab)"), w=w, v=v)) == [{}]


def test_a_grid_made_from_shapes_is_no_layer() -> None:
    found = layout(
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
        {
          a = Conv(x, w)  b = Conv(x, w)  ab = Concat<axis = 1>(a, b)
          shape = Shape(ab)  zeros = ConstantOfShape(shape)
          y = Add(ab, zeros)
        }""",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    assert where(found) == [{1: ((0, 2),)}, {1: ((2, 4),)}]


def test_unknown_lengths_are_counted_from_the_end() -> None:
    found = layout(
        """g (float[N, T, 3] x, float[N, K, 3] z) => (float[N, S, 3] y)
        {
          a = MatMul(x, w)  b = MatMul(z, w)
          s = Sigmoid(b)  first = Slice(s, zero, two, one)
          y = Concat<axis = 1>(a, first)
        }""",
        w=np.ones((3, 3), np.float32),
        zero=np.array([0]),
        two=np.array([2]),
        one=np.array([1]),
    )
    assert where(found) == [{1: ((0, -2),)}, {1: ((-2, None),)}]


def test_where_two_lengths_are_unknown_the_blocks_cannot_be_told_apart() -> None:
    found = layout(
        """g (float[N, T, 3] x, float[N, K, 3] z) => (float[N, S, 3] y)
        { a = MatMul(x, w)  b = MatMul(z, w)  s = Sigmoid(b)  y = Concat<axis = 1>(a, s, a) }""",
        w=np.ones((3, 3), np.float32),
    )
    assert where(found) == [{}]


def test_a_long_chain_is_followed_without_recursion() -> None:
    steps = "  ".join(f"v{i + 1} = Relu(v{i})" for i in range(3000))
    found = layout(
        f"g (float[N, 2] x) => (float[N, 4] y) {{ v0 = Gemm(x, w)  {steps}  y = Concat<axis = 1>(v3000, v0) }}",
        w=np.ones((2, 2), np.float32),
    )
    assert where(found) == [{1: ((0, 2),)}, {1: ((2, 4),)}]


def test_without_a_rank_there_is_no_layout() -> None:
    value = ir.Value(name="x")
    assert layout_of(value) is None


# ----------------------------------------------------------------------------------- any chain of views


class Views:
    """Draws a graph of views and concatenations over sources that each hold one number."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.arrays: dict[str, Array] = {}
        self.sources: dict[str, Array] = {}

    def source(self, shape: tuple[int, ...]) -> str:
        name = f"s{len(self.sources)}"
        self.sources[name] = np.full(shape, len(self.sources), np.float32)
        self.arrays[name] = self.sources[name]
        return name

    def kind(self, shape: tuple[int, ...]) -> str:
        """Return a source, or one behind a function that changes nothing of it."""
        name = self.source(shape)
        function = self.draw(st.sampled_from(["", "Relu", "Abs"]))
        return self.add(function, [name], self.arrays[name]) if function else name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, np.int64)
        return name

    def add(self, op_type: str, inputs: list[str], result: Array, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.arrays[name] = result
        return name

    def view(self, name: str) -> str:
        x = self.arrays[name]
        axis = self.draw(st.integers(0, x.ndim - 1))
        kind = self.draw(
            st.sampled_from(["transpose", "reshape", "slice", "unsqueeze", "gather", "flatten"])
        )
        if kind == "transpose":
            perm = self.draw(st.permutations(range(x.ndim)))
            return self.add("Transpose", [name], x.transpose(perm), perm=list(perm))
        if kind == "reshape":
            shape = list(x.shape)
            if x.ndim > 1 and self.draw(st.booleans()):
                at = self.draw(st.integers(0, x.ndim - 2))
                shape[at : at + 2] = [shape[at] * shape[at + 1]]
            else:
                factor = self.draw(st.sampled_from([f for f in (1, 2, 3) if shape[axis] % f == 0]))
                shape[axis : axis + 1] = [factor, shape[axis] // factor]
            return self.add("Reshape", [name, self.constant(shape)], x.reshape(shape))
        if kind == "slice":
            start = self.draw(st.integers(0, x.shape[axis] - 1))
            end = self.draw(st.integers(start + 1, x.shape[axis]))
            cut = x[(slice(None),) * axis + (slice(start, end),)]
            places = [self.constant([v]) for v in (start, end, axis)]
            return self.add("Slice", [name, *places], cut)
        if kind == "unsqueeze":
            return self.add("Unsqueeze", [name, self.constant([axis])], np.expand_dims(x, axis))
        if kind == "flatten":
            flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
            return self.add("Flatten", [name], flat, axis=axis)
        i = self.draw(st.integers(0, x.shape[axis] - 1))
        if x.ndim == 1:
            return name
        return self.add("Gather", [name, self.constant(i)], x.take(i, axis), axis=axis)

    def join(self, name: str) -> str:
        x = self.arrays[name]
        axis = self.draw(st.integers(0, x.ndim - 1))
        others = self.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        names = [name, *(self.kind((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in others)]
        joined = np.concatenate([self.arrays[n] for n in names], axis=axis)
        return self.add("Concat", names, joined, axis=axis)


@st.composite
def view_chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, Array], Array]:
    """Draw a model of views, its inputs and its output."""
    views = Views(draw)
    name = views.source(draw(st.sampled_from([(2, 3), (1, 2, 3), (2, 3, 4), (1, 6, 2, 2)])))
    for _ in range(draw(st.integers(1, 7))):
        small = views.arrays[name].size < 500 and views.arrays[name].ndim < 7
        name = views.join(name) if small and draw(st.booleans()) else views.view(name)
    if not views.nodes:
        name = views.add("Identity", [name], views.arrays[name])
    result = views.arrays[name]
    declared = draw(st.booleans())
    shape = list(result.shape) if declared else [f"d{i}" for i in range(result.ndim)]
    graph = helper.make_graph(
        views.nodes,
        "views",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape)
            for n, x in views.sources.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(a, n) for n, a in views.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, views.sources, result


@settings(max_examples=300, deadline=None)
@given(view_chains(), st.booleans())
def test_every_block_holds_its_sources_and_all_blocks_are_the_tensor(
    case: tuple[onnx.ModelProto, dict[str, Array], Array], inferred: bool
) -> None:
    model, sources, result = case
    (found,) = ReferenceEvaluator(model).run(None, sources)
    np.testing.assert_array_equal(found, result)
    loaded = ir.from_proto(onnx.shape_inference.infer_shapes(model) if inferred else model)
    layout = layout_of(loaded.graph.outputs[0])
    assert layout is not None
    known = [(a, n) for a, n in enumerate(layout.dims) if isinstance(n, int)]
    assert all(result.shape[a] == n for a, n in known)
    seen = np.zeros(result.shape, int)
    for region in layout.regions:
        places = [np.arange(n) for n in result.shape]
        for axis, ranges in region.where:
            places[axis] = np.concatenate([places[axis][slice(*r)] for r in ranges])
        block = np.ix_(*places)
        seen[block] += 1
        allowed = [sources[s].flat[0] for s in region.sources]
        assert np.isin(result[block], allowed).all()
    assert (seen == 1).all()

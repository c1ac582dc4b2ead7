"""Islands of float16 in a float32 model."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant.graph.load import load, prepare
from calibrant.graph.passes.half import can_be_half, to_half
from calibrant.runtime.session import open_session


def chain(scale: float = 1.0) -> ir.Model:
    """x → a (MatMul) → b (Relu) → c (MatMul) → y."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.normal(size=(8, 8)) * s).astype(np.float32), n)
        for n, s in (("wa", scale), ("wc", 1.0))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "wa"], ["ta"], name="a"),
        helper.make_node("Relu", ["ta"], ["tb"], name="b"),
        helper.make_node("MatMul", ["tb", "wc"], ["y"], name="c"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return prepare(
        load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    )


@pytest.mark.parametrize(
    ("names", "casts"),
    [({"a"}, 2), ({"b"}, 2), ({"a", "b"}, 2), ({"a", "c"}, 4), ({"a", "b", "c"}, 2)],
)
def test_only_the_borders_of_an_island_are_cast(names, casts):
    model, half = chain(), chain()
    assert {i.node for i in to_half(half, names)} == names
    assert sum(n.op_type == "Cast" for n in half.graph) == casts
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    for node in half.graph:
        expected = ir.DataType.FLOAT16 if node.name in names else ir.DataType.FLOAT
        if node.op_type != "Cast":
            assert node.outputs[0].dtype == expected
    feed = {"x": np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)}
    want, got = (open_session(m).run(None, feed)[0] for m in (model, half))
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 0.05 or names == {"b"}


def constant(model: ir.Model, name: str) -> Any:
    found = model.graph.initializers[name].const_value
    assert found is not None
    return found.numpy()


def test_constants_beyond_the_range_are_clipped_and_counted():
    half = chain(scale=1e5)
    weight = constant(half, "wa")
    beyond = int((np.abs(weight) > 65504).sum())
    assert beyond > 0
    (island,) = to_half(half, {"a"})
    assert island.clipped == beyond
    assert np.isfinite(constant(half, "wa__float16")).all()


def test_what_has_no_float16_form():
    node = ir.Node("", "NonZero", [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))])
    assert not can_be_half(node)
    assert can_be_half(chain().graph.node("a"))

"""What depends on constants alone is computed beforehand: the same model as one that was folded by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from calibrant.graph.load import load, prepare
from calibrant.graph.notes import notes_of
from calibrant.graph.passes import constants
from calibrant.graph.passes.constants import why_not_folded
from calibrant.plan import Plan, resolve
from calibrant.recipe import Recipe
from tests.models import Array, Model, Weights, build, normal
from tests.road import batches, op_types, outputs, prepared, quantize, sqnr_db

W = Weights(70)
DENSE = W.dense(24, 8)
GAIN = W.positive(8)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


#: Nodes that make the weight w (24, 8), and the constants they read.
CHAINS: dict[str, tuple[str, dict[str, Array]]] = {
    "Mul": ("w = Mul (v, g)", {"v": DENSE, "g": GAIN}),
    "Div": ("w = Div (v, g)", {"v": DENSE, "g": GAIN}),
    "Sub": ("w = Sub (v, g)", {"v": DENSE, "g": GAIN}),
    "Tanh": ("w = Tanh (v)", {"v": DENSE}),
    "Concat": ("w = Concat <axis = 0> (a, b)", {"a": DENSE[:4], "b": DENSE[4:]}),
    "Slice": (
        "w = Slice (v, s, e)",
        {"v": np.concatenate([DENSE, DENSE]), "s": ints(3, 0), "e": ints(27, 8)},
    ),
    "Split": ("w, rest = Split <axis = 1> (v, s)", {"v": W.dense(24, 12), "s": ints(8, 4)}),
    "Expand": ("w = Expand (v, s)", {"v": W.dense(24, 1), "s": ints(24, 8)}),
    "Tile": ("w = Tile (v, s)", {"v": W.dense(12, 8), "s": ints(2, 1)}),
    "Reshape with 0": ("w = Reshape (v, s)", {"v": DENSE.reshape(24, 2, 4), "s": ints(0, -1)}),
    "Transpose": ("w = Transpose <perm = [1, 0]> (v)", {"v": DENSE.T.copy()}),
    "Squeeze": ("w = Squeeze (v, a)", {"v": DENSE[None], "a": ints(0)}),
    "Unsqueeze, Gather": (
        "u = Unsqueeze (v, a) w = Gather <axis = 0> (u, i)",
        {"v": DENSE, "a": ints(0), "i": np.array(0)},
    ),
    "Where": ("w = Where (m, v, z)", {"m": DENSE > 0, "v": DENSE, "z": np.array(0.5, np.float32)}),
    "Cast": ("w = Cast <to = 1> (v)", {"v": DENSE.astype(np.float16)}),
    "Cast of whole numbers, Mul": (
        "c = Cast <to = 1> (v) w = Mul (c, s)",
        {"v": np.rint(DENSE * 500).astype(np.int32), "s": np.array(0.002, np.float32)},
    ),
    "MatMul of two factors": ("w = MatMul (a, b)", {"a": W.dense(24, 3), "b": W.dense(3, 8)}),
    "weight normalization": (
        "q = Mul (v, v) n = ReduceSum <keepdims = 1> (q, a) r = Sqrt (n) u = Div (v, r) w = Mul (u, g)",
        {"v": DENSE, "a": ints(0), "g": GAIN},
    ),
    "a shape of a constant": (
        "s = Shape (v) w = Reshape (u, s)",
        {"v": DENSE, "u": DENSE.reshape(-1)},
    ),
    "a shape from parts": (
        "p = Concat <axis = 0> (m, n) w = Reshape (v, p)",
        {"v": DENSE.reshape(-1), "m": ints(24), "n": ints(8)},
    ),
    "Constant nodes": (
        "k = Constant <value_float = 2.0> () t = Constant <value_ints = [24, 8]> () e = Mul (v, k) w = Reshape (e, t)",
        {"v": DENSE.reshape(-1)},
    ),
    "Identity and Dropout": ("i = Identity (v) d = Dropout (i) w = Identity (d)", {"v": DENSE}),
    "ConstantOfShape": ("z = ConstantOfShape (s) w = Add (v, z)", {"v": DENSE, "s": ints(24, 8)}),
    "Softmax, Neg": ("n = Neg (v) w = Softmax <axis = 0> (n)", {"v": DENSE}),
    "ScatterElements": (
        "w = ScatterElements <axis = 0> (v, i, u)",
        {"v": DENSE, "i": np.zeros((1, 8), np.int64), "u": np.ones((1, 8), np.float32)},
    ),
}


def of_chain(text: str, inits: dict[str, Array]) -> Model:
    return build(
        f"net (float[N,24] x) => (float[N,8] y) {{ {text} y = MatMul (x, w) }}", inits, normal(24)
    )


@pytest.mark.parametrize("name", CHAINS)
def test_a_weight_that_is_computed_from_constants_is_a_constant(name: str) -> None:
    model, feeds = of_chain(*CHAINS[name])
    made = prepared(model)
    assert op_types(made) == ["MatMul"]
    (weight,) = made.graph.initializers
    plan = resolve(Recipe(), made)
    assert [(w.layer, w.weight, w.channel_axis) for w in plan.weights] == [("y", weight, 1)]
    np.testing.assert_allclose(
        outputs(made, feeds())[0], outputs(model, feeds())[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
def test_weights_of_old_and_new_opsets_are_computed(opset: int) -> None:
    axes, inits = ("<axes = [0]> (v)", {}) if opset < 13 else ("(v, a)", {"a": ints(0)})
    model, feeds = build(
        f"net (float[N,24] x) => (float[N,8] y) {{ u = Squeeze {axes} w = Mul (u, g) y = MatMul (x, w) }}",
        {"v": DENSE[None], "g": GAIN, **inits},
        normal(24),
        opset=opset,
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul"]
    np.testing.assert_allclose(outputs(made, feeds())[0], outputs(model, feeds())[0], atol=1e-5)


def test_a_model_is_quantized_as_well_as_the_one_that_was_folded_by_hand() -> None:
    gain = (10.0 ** np.linspace(-2, 1.5, 8)).astype(np.float32)
    text = "u = Div (v, r) w = Mul (u, g) p = MatMul (x, w) y = Relu (p)"
    norm = np.linalg.norm(DENSE, axis=0, keepdims=True)
    computed, feeds = build(
        f"net (float[N,24] x) => (float[N,8] y) {{ {text} }}",
        {"v": DENSE, "r": norm, "g": gain},
        normal(24),
    )
    folded, _ = build(
        "net (float[N,24] x) => (float[N,8] y) { p = MatMul (x, w) y = Relu (p) }",
        {"w": DENSE / norm * gain},
        normal(24),
    )
    found = [quantize(m, batches(feeds)) for m in (computed, folded)]
    assert op_types(found[0].deploy) == op_types(found[1].deploy)
    feed = feeds(seed=9)
    one, two = (outputs(r.deploy, feed) for r in found)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-4)
    floats = [
        v.name
        for v in found[0].deploy.graph.initializers.values()
        if v.dtype == ir.DataType.FLOAT and v.const_value is not None and v.const_value.size > 8
    ]
    assert not floats


def test_a_bias_that_is_computed_is_a_constant_too() -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[N,8] y) { b = Mul (g, g) y = Gemm (x, w, b) }",
        {"w": DENSE, "g": GAIN},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["Gemm"]
    np.testing.assert_allclose(outputs(made, feeds())[0], outputs(model, feeds())[0], atol=1e-6)


def test_what_is_computed_and_handed_out_is_a_weight_all_the_same() -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[N,8] y, float[24,8] w) { w = Mul (v, g) y = MatMul (x, w) }",
        {"v": DENSE, "g": GAIN},
        normal(24),
    )
    made = prepared(model)
    assert sorted(op_types(made)) == ["Identity", "MatMul"]
    assert len(resolve(Recipe(), made).weights) == 1
    feed = feeds()
    for one, other in zip(outputs(model, feed), outputs(made, feed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("constant", ["w = Constant <value = float[2,1] {1.0, 2.0}> ()"])
def test_a_constant_node_that_is_handed_out_is_a_weight_all_the_same(constant: str) -> None:
    model, feeds = build(
        f"net (float[N,2] x) => (float[N,1] y, float[2,1] w) {{ {constant} y = MatMul (x, w) }}",
        {},
        normal(2),
    )
    made = prepared(model)
    assert [v.name for v in made.graph.outputs] == ["y", "w"]
    assert len(resolve(Recipe(), made).weights) == 1
    np.testing.assert_array_equal(outputs(made, feeds())[1], [[1.0], [2.0]])


def test_what_depends_on_an_input_stays() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,8] y) {
            k = Mul (g, g) m = MatMul (x, w) a = Mul (m, k) y = Add (a, k)
        }""",
        {"w": DENSE, "g": GAIN},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul", "Mul", "Add"]
    np.testing.assert_allclose(outputs(made, feeds())[0], outputs(model, feeds())[0], rtol=1e-6)


# ------------------------------------------------------------------------------------------- bodies


def test_constants_in_bodies_and_those_that_bodies_read_are_computed() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,8] y) {
            w = Mul (v, g)
            m = MatMul (x, w)
            mean = ReduceMean <keepdims = 0> (x)
            high = Greater (mean, zero)
            y = If (high) <
                then_branch = yes () => (float[N,8] t) <float two = {2.0}> {
                    k = Mul (g, two) s = Sqrt (k) t = Mul (m, s)
                },
                else_branch = no () => (float[N,8] e) {
                    c = Constant <value = float {3.0}> () k = Div (g, c) u = Mul (w, c) p = MatMul (x, u)
                    e = Mul (p, k)
                }
            >
        }""",
        {"v": DENSE, "g": GAIN, "zero": np.float32(0)},
        normal(24),
    )
    made = prepared(model)
    inner = [[n.op_type for n in g] for g in made.graph.subgraphs()]
    assert inner == [["Mul"], ["MatMul", "Mul"]]
    for by in (-0.5, 0.5):
        feed = {"x": feeds()["x"] + np.float32(by)}
        np.testing.assert_allclose(outputs(made, feed)[0], outputs(model, feed)[0], atol=1e-5)


# -------------------------------------------------------------------------------- what is left, and why


def plan_of(model: onnx.ModelProto) -> tuple[ir.Model, Plan]:
    made = prepare(load(model))
    return made, resolve(Recipe(), made)


def said(plan: Plan) -> str:
    return " ".join(n.message for n in plan.notes)


def test_a_result_that_grows_beyond_the_limit_is_left_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "GROWTH_LIMIT", 2**10)
    text = "w = Expand (v, s) y = MatMul (x, w)"
    model, feeds = build(
        f"net (float[N,24] x) => (float[N,800] y) {{ {text} }}",
        {"v": W.dense(24, 1), "s": ints(24, 800)},
        normal(24),
    )
    made, plan = plan_of(model)
    assert op_types(made) == ["Expand", "MatMul"]
    assert "MiB" in why_not_folded(made.graph[0])
    assert len(notes_of(made)) == 1
    assert "weight of layer 'y' (MatMul) is no constant" in said(plan)
    assert "'w' (Expand)" in said(plan)
    assert (
        sqnr_db(outputs(model, feeds()), outputs(quantize(model, batches(feeds)).deploy, feeds()))
        > 20
    )


def test_a_weight_as_large_as_its_parts_is_computed_whatever_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "GROWTH_LIMIT", 0)
    assert op_types(prepared(of_chain(*CHAINS["Mul"]))) == ["MatMul"]


def test_random_weights_are_left_and_named() -> None:
    model, _ = of_chain(
        "r = RandomNormalLike <seed = 1.0> (v) w = Mul (r, g)", {"v": DENSE, "g": GAIN}
    )
    made, plan = plan_of(model)
    assert op_types(made) == ["RandomNormalLike", "Mul", "MatMul"]
    assert (
        "node 'r' (RandomNormalLike) in front of it is left as it is, because it draws random"
        in said(plan)
    )


def test_a_weight_that_depends_on_an_input_is_named() -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])
    k = helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [helper.make_node("Conv", ["x", "k"], ["y"], name="dynamic")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x, k], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    _, plan = plan_of(model)
    assert "weight of layer 'dynamic' (Conv) is no constant" in said(plan)
    assert "depends on the inputs" in said(plan)


def test_a_product_of_two_activations_has_no_weight_to_name() -> None:
    model, _ = build(
        """net (float[N,4,6] x) => (float[N,4,4] y) {
            t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)
        }""",
        {},
        normal(4, 6),
    )
    assert not plan_of(model)[1].notes


def test_operators_of_other_domains_are_left_and_named() -> None:
    nodes = [
        helper.make_node("Gelu", ["v"], ["w"], name="own", domain="com.microsoft"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
    ]
    x, y = (
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", d])
        for n, d in (("x", 24), ("y", 8))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(DENSE, "v")]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    made, plan = plan_of(model)
    assert op_types(made) == ["Gelu", "MatMul"]
    assert "'fc' (MatMul)" in said(plan)
    assert "domain 'com.microsoft'" in said(plan)


def test_quantizers_of_constants_stay_for_who_lifts_them() -> None:
    model, _ = build(
        "net (float[N,24] x) => (float[N,8] y) { w = DequantizeLinear (q, s) y = MatMul (x, w) }",
        {"q": np.ones((24, 8), np.int8), "s": np.float32(0.1)},
        normal(24),
    )
    assert op_types(prepare(load(model, quantizers=True))) == ["DequantizeLinear", "MatMul"]


def test_the_model_of_the_caller_keeps_its_nodes_and_weights() -> None:
    model, _ = of_chain(*CHAINS["weight normalization"])
    original = load(model)
    before = ir.to_proto(original).SerializeToString()
    prepare(original)
    assert ir.to_proto(original).SerializeToString() == before

"""A model that computes in float16 or float64 computes in float32; its inputs and outputs keep their types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from calibrant.errors import ModelError
from calibrant.graph.load import load, prepare
from calibrant.graph.notes import notes_of
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import Recipe
from tests.models import Array, Feeds, Model, Weights, build
from tests.road import op_types, outputs, quantize, sqnr_db

W = Weights(130)
HALF, SINGLE, DOUBLE = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
TEXT = {HALF: "float16", SINGLE: "float", DOUBLE: "double"}
KINDS = {HALF: ir.DataType.FLOAT16, DOUBLE: ir.DataType.DOUBLE}


def of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Feeds:
    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        return {"x": np.random.default_rng(seed).normal(size=(batch, *shape)).astype(dtype)}

    return feeds


def network(dtype: np.dtype[Any]) -> Model:
    """Convolutions, a batch normalization, constants of several kinds, a matrix product and a Softmax."""
    t = TEXT[dtype]

    def text(value: float) -> str:  # ONNX text has float16 as its bits
        return str(np.float16(value).view(np.uint16) if dtype == HALF else value)

    w = Weights(131)
    weights = {"w1": w.conv(8, 3), "b1": w.vector(8), "w2": w.conv(8, 8), "w3": w.dense(8, 5)}
    weights |= w.batch_norm("n", 8)
    return build(
        f"""net ({t}[N,3,12,12] x) => ({t}[N,5] y, {t}[N,8,8,8] inner) {{
            a = Conv (x, w1, b1)
            r = Relu (a)
            c = Conv (r, w2)
            inner = BatchNormalization (c, n_g, n_b, n_m, n_v)
            k = Constant <value = {t} {{{text(0.5)}}}> ()
            h = Mul (inner, k)
            p = GlobalAveragePool (h)
            f = Flatten (p)
            s = Shape (f)
            z = ConstantOfShape <value = {t}[1] {{{text(0.25)}}}> (s)
            g = Add (f, z)
            m = MatMul (g, w3)
            y = Softmax (m)
        }}""",
        {n: v.astype(dtype) for n, v in weights.items()},
        of((3, 12, 12), dtype),
    )


def types(model: ir.Model) -> set[str]:
    """Return the floating point types of all values, those of the inputs and outputs of the model left out."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    values = {
        v
        for g in model.graphs()
        for v in (*g.inputs, *g.initializers.values(), *(o for n in g for o in n.outputs))
    }
    return {v.dtype.name for v in values - ends if v.dtype and v.dtype.is_floating_point()}


@pytest.mark.parametrize("dtype", [HALF, DOUBLE])
def test_a_model_of_another_type_computes_in_float32(dtype: np.dtype[Any]) -> None:
    model, feeds = network(dtype)
    before = model.SerializeToString()
    made = load(model)
    assert types(made) == {"FLOAT"}
    assert [(v.name, v.dtype) for v in made.graph.inputs] == [("x", KINDS[dtype])]
    assert [(v.name, v.dtype) for v in made.graph.outputs] == [
        ("y", KINDS[dtype]),
        ("inner", KINDS[dtype]),
    ]
    assert op_types(made)[0] == "Cast"
    assert op_types(made).count("Cast") == 3
    found = outputs(prepare(made), feeds())
    single, feed = network(SINGLE)[0], {"x": feeds()["x"].astype(np.float32)}
    expected = outputs(model, feeds()) if dtype == HALF else outputs(single, feed)  # no Conv there
    assert [x.dtype for x in found] == [dtype, dtype]
    assert sqnr_db(expected, found) > (45 if dtype == HALF else 100)
    name = "float16" if dtype == HALF else "float64"
    assert notes_of(made)[0].startswith(
        f"The model computes in {name}: it was converted to float32"
    )
    assert model.SerializeToString() == before


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like", "layers-only"])
def test_a_float16_model_is_quantized_and_stays_float16_outside(
    target: str, tmp_path: Path
) -> None:
    model, feeds = network(HALF)
    data = [feeds(batch=8, seed=s) for s in range(4)]
    result = quantize(model, data, Recipe(target=target))
    feed = feeds(batch=8, seed=9)
    for made in (result.deploy, result.fake_quant):
        found = outputs(made, feed, optimize=False)
        assert [x.dtype for x in found] == [HALF, HALF]
        assert sqnr_db(outputs(model, feed), found) > 25
    assert len(result.plan.weights) == 3
    assert any("float16" in n["message"] for n in result.summary["notes"])
    assert set(result.summary["quality"]["outputs"]) == {"y", "inner"}
    floats = [
        v for v in result.deploy.graph.initializers.values() if v.dtype == ir.DataType.FLOAT16
    ]
    assert not floats
    result.save(tmp_path, formats=("ascend", "horizon"))
    assert len(list(tmp_path.glob("*.onnx"))) > 5


def test_float32_data_is_taken_for_a_float16_input() -> None:
    model, feeds = network(HALF)
    halves = [feeds(batch=8, seed=s) for s in range(2)]
    singles = [{"x": f["x"].astype(np.float32)} for f in halves]
    one, two = (quantize(model, d) for d in (halves, singles))
    assert one.record.text() == two.record.text()


def test_a_record_builds_a_float16_model_again() -> None:
    model, feeds = network(HALF)
    result = quantize(model, [feeds(batch=8)])
    again = quantize_from_record(model, result.record, latency=False)
    assert again.to_bytes() == result.to_bytes()


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_outputs_in_another_precision(precision: Any) -> None:
    model, feeds = network(HALF)
    result = quantize(model, [feeds(batch=8)], Recipe(output_precision=precision))
    assert [v.dtype for v in result.deploy.graph.outputs] == [ir.DataType.FLOAT16] * 2
    ends = [v.producer() for v in result.deploy.graph.outputs]
    assert [n.op_type for n in ends if n is not None] == ["Cast", "Cast"]
    before = [n.inputs[0].producer() for n in ends if n is not None and n.inputs[0] is not None]
    if precision == "int8":
        assert {n.op_type for n in before if n is not None} == {"DequantizeLinear"}


def test_candidates_are_scored_in_front_of_the_casts_and_the_softmax() -> None:
    from calibrant.analysis.probe import _scored

    assert _scored(prepare(load(network(HALF)[0]))) == ("m", "inner__float32")


# ------------------------------------------------------------------------------------------- siblings


def halves(
    text: str, inits: dict[str, Array], shape: tuple[int, ...] = (24,), dtype: Any = np.float32
) -> Model:
    return build(text, inits, of(shape, np.dtype(dtype)))


def test_weights_that_are_only_stored_in_float16_are_no_float16_model() -> None:
    model, feeds = halves(
        """net (float[N,24] x) => (float[N,8] y) {
            t = Transpose <perm = [1, 0]> (h) w = Cast <to = 1> (t) y = MatMul (x, w)
        }""",
        {"h": W.dense(24, 8).T.astype(np.float16)},
    )
    made = load(model)
    assert not notes_of(made)
    assert op_types(prepare(made)) == ["MatMul"]
    assert sqnr_db(outputs(model, feeds()), outputs(prepare(made), feeds())) > 100


def test_a_float16_input_that_is_cast_at_once_needs_nothing() -> None:
    model, _ = halves(
        "net (float16[N,24] x) => (float[N,8] y) { c = Cast <to = 1> (x) y = MatMul (c, w) }",
        {"w": W.dense(24, 8)},
        dtype=np.float16,
    )
    made = load(model)
    assert not notes_of(made)
    assert op_types(made) == ["Cast", "MatMul"]


def test_an_island_of_float16_in_a_float32_model() -> None:
    model, feeds = halves(
        """net (float[N,24] x) => (float[N,4] y) {
            a = MatMul (x, w1) h = Cast <to = 10> (a) m = MatMul (h, w2) r = Relu (m)
            c = Cast <to = 1> (r) y = MatMul (c, w3)
        }""",
        {"w1": W.dense(24, 8), "w2": W.dense(8, 8).astype(np.float16), "w3": W.dense(8, 4)},
    )
    made = prepare(load(model))
    assert op_types(made) == ["MatMul", "MatMul", "Relu", "MatMul"]
    assert sqnr_db(outputs(model, feeds()), outputs(made, feeds())) > 45


def test_bodies_are_converted_with_their_constants_inputs_and_what_they_take_from_outside() -> (
    None
):
    model, feeds = halves(
        """net (float16[N,24] x) => (float16[N,8] y, float16[N,8] z) {
            a = MatMul (x, w)
            m = ReduceMean <keepdims = 0> (x)
            c = Greater (m, zero)
            y = If (c) <
                then_branch = yes () => (float16[N,8] o) <float16 two = {16384}> { o = Mul (a, two) },
                else_branch = no () => (float16[N,8] o) {
                    k = Constant <value = float16 {16896}> () h = MatMul (x, w) o = Add (h, k)
                }
            >
            z = Loop (times, on, a) <
                body = step (int64 i, bool b, float16[N,8] s) => (bool q, float16[N,8] n) {
                    q = Identity (b) e = Cast <to = 10> (i) n = Add (s, e)
                }
            >
        }""",
        {
            "w": W.dense(24, 8).astype(np.float16),
            "zero": np.array(0, np.float16),
            "times": np.array(3),
            "on": np.array(True),
        },
        dtype=np.float16,
    )
    made = prepare(load(model))
    assert types(made) == {"FLOAT"}
    for by in (-1, 1):
        feed = {"x": feeds()["x"] + np.float16(by)}
        assert sqnr_db(outputs(model, feed), outputs(made, feed)) > 45


def test_an_input_that_is_an_output_and_a_constant_output_keep_their_type() -> None:
    model, feeds = halves(
        """net (float16[N,24] x) => (float16[N,8] y, float16[N,24] x, float16[24,8] w, float16[N,24] same) {
            y = MatMul (x, w) same = Identity (x)
        }""",
        {"w": W.dense(24, 8).astype(np.float16)},
        dtype=np.float16,
    )
    result = quantize(model, [feeds(batch=8)])
    assert [(v.name, v.dtype) for v in result.deploy.graph.outputs] == [
        (n, ir.DataType.FLOAT16) for n in ("y", "x", "w", "same")
    ]
    feed = feeds(seed=3)
    found = outputs(result.deploy, feed)
    for i in (1, 2, 3):
        np.testing.assert_array_equal(found[i], outputs(model, feed)[i])


def test_functions_are_converted() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17, "local" : 1]>
        net (float16[N,4] x) => (float16[N,4] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (o) { k = Constant <value = float16 {16384}> () o = Mul (a, k) }
    """)
    made = load(model)
    assert types(made) == {"FLOAT"}
    feed = of((4,), HALF)()
    np.testing.assert_array_equal(outputs(made, feed)[0], feed["x"] * np.float16(2))


def test_a_few_float64_numbers_beside_a_float32_network_stay() -> None:
    model, feeds = halves(
        """net (float[N,24] x) => (float[N,8] y, double[N,8] precise) {
            y = MatMul (x, w) d = Cast <to = 11> (y) precise = Mul (d, k)
        }""",
        {"w": W.dense(24, 8), "k": np.array(1e-40)},
    )
    made = load(model)
    assert not notes_of(made)
    np.testing.assert_array_equal(outputs(made, feeds())[1], outputs(model, feeds())[1])


def brain(*nodes: onnx.NodeProto, kind: int, weight: Array) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", kind, ["N", 24])
    y = helper.make_tensor_value_info("y", kind, ["N", 8])
    w = helper.make_tensor(
        "w",
        TensorProto.BFLOAT16,
        weight.shape,
        weight.astype(ml_dtypes.bfloat16).tobytes(),
        raw=True,
    )
    graph = helper.make_graph(list(nodes), "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_bfloat16_model_is_refused_with_the_way_out() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    model = brain(node, kind=TensorProto.BFLOAT16, weight=W.dense(24, 8))
    with pytest.raises(
        ModelError, match=r"computes in bfloat16 \(node 'fc', MatMul\).*float32 or float16"
    ):
        load(model)


def test_bfloat16_weights_that_are_cast_are_weights() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["v"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "v"], ["y"], name="fc"),
    ]
    weight = W.dense(24, 8)
    made = prepare(load(brain(*nodes, kind=TensorProto.FLOAT, weight=weight)))
    assert op_types(made) == ["MatMul"]
    feed = of((24,), np.dtype(np.float32))()
    expected = feed["x"] @ weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(outputs(made, feed)[0], expected, rtol=1e-5, atol=1e-5)

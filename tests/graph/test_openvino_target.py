"""Where quantizers stand for OpenVINO, what its files hold, and, where it is installed, what it makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.emit.qdq import emit_qdq
from calibrant.graph.ops import contracted_axis
from calibrant.numerics.pairs import PAIR_LIMIT, pair_sums
from calibrant.recipe import AlgorithmChoice, AllNodes, OpType, Recipe, Rule, Settings
from tests.models import NETS, Array, Weights, build
from tests.models.convolution import IMAGE
from tests.road import batches, edges, every_net, outputs, points, prepared, quantize, sqnr_db

W = Weights(0)
PLAIN = Recipe(target="openvino", equalize="off", bias_correction="off")


def placed(graph: str, out: str = "y", target: str = "openvino") -> dict[str, set[str]]:
    """Edges of a network x[N,3,H,W] => out[N,C,H,W] whose weights w1 and w2 keep three channels."""
    values: dict[str, Array] = {f"w{i}": W.conv(3, 3, 1) for i in (1, 2)}
    values |= {
        "s": np.array([0]),
        "e": np.array([4]),
        "a": np.array([2]),
        "up": np.array([1, 1, 2, 2], dtype=np.float32),
        "low": np.array(-np.inf, dtype=np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    text = f"net (float[N,3,16,16] x) => (float[N,C,H,W] {out}) {{ {graph} }}"
    used = {n: v for n, v in values.items() if n in text}
    return edges(points(prepared(build(text, used, IMAGE)), target))


# ------------------------------------------------------------------------------------------- placement


def test_what_moves_values_reads_integers_where_its_reader_does() -> None:
    assert placed("c = Conv (x, w1) p = MaxPool <kernel_shape = [2,2]> (c) y = Conv (p, w2)") == {
        "x": {"c:0"},
        "c": {"p:0"},
        "p": {"y:0"},
    }


def test_a_row_of_moves_is_quantized_at_its_beginning_and_at_its_end() -> None:
    graph = "m = Slice (x, s, e, a) n = Slice (m, s, e, a) y = Conv (n, w1)"
    assert placed(graph) == {"x": {"m:0"}, "n": {"y:0"}}


@pytest.mark.parametrize(
    "graph",
    [
        "p = MaxPool <kernel_shape = [1,1]> (x) c = Conv (p, w1) y = Add (c, p)",  # a float reader
        "y = MaxPool <kernel_shape = [1,1]> (x) c = Conv (y, w1)",  # the caller reads it
        "p = MaxPool <kernel_shape = [1,1]> (x) c = Exp (p) y = Conv (c, w1)",
        "p = Pad (x, pads, low) y = Conv (p, w1)",  # minus infinity is on no grid
    ],
)
def test_what_is_read_in_float_as_well_stays_in_float(graph: str) -> None:
    assert "x" not in placed(graph)


def test_both_operands_of_an_addition_are_quantized_where_its_sum_is() -> None:
    graph = "c = Conv (x, w1) t = Add (c, x) r = Relu (t) y = Conv (r, w2)"
    assert placed(graph) == {"x": {"c:0", "t:1"}, "c": {"t:0"}, "r": {"y:0"}}


def test_the_last_addition_of_a_model_stays_in_float() -> None:
    assert placed("c = Conv (x, w1) y = Add (c, x)") == {"x": {"c:0"}}


def test_what_a_concat_brings_together_has_one_range() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,3,16,16] y) {
        a = Conv (x, w1) b = Conv (x, w2) s = Sigmoid (b) j = Concat <axis = 1> (a, s) y = Conv (j, w3) }"""
    weights = {"w1": W.conv(4, 3, 1), "w2": W.conv(4, 3, 1), "w3": W.conv(3, 8, 1)}
    found = points(prepared(build(text, weights, IMAGE)), "openvino").activations
    joined = [p for p in found if p.tensor in ("a", "s", "j")]
    assert len(joined) == 3
    assert len({p.root for p in joined}) == 1
    assert {p.fixed_range for p in joined} == {None}  # that of the Sigmoid would be another


def test_a_resize_that_interpolates_keeps_one_range_and_its_quantizer() -> None:
    for mode, pairs in (("nearest", 2), ("linear", 3)):
        text = f"""net (float[N,3,16,16] x) => (float[N,4,H,W] y) {{
            c = Conv (x, w1) u = Resize <mode = "{mode}"> (c, , up) y = Conv (u, w2) }}"""
        weights = {
            "w1": W.conv(4, 3, 1),
            "w2": W.conv(4, 4, 1),
            "up": np.array([1, 1, 2, 2], dtype=np.float32),
        }
        model, feeds = build(text, weights, IMAGE)
        result = quantize(model, batches(feeds, count=2), PLAIN)
        ops = [node.op_type for node in result.deploy.graph]
        assert ops.count("QuantizeLinear") == pairs  # values between two steps are on no grid
        assert len(result.plan.activations) == 3


# ---------------------------------------------------------------------------------------------- files


def pairs_of(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("name", every_net())
def test_activations_are_unsigned_and_no_pair_of_weights_can_saturate(name: str) -> None:
    model, feeds = NETS[name]()
    per_channel = Rule(OpType("Conv"), Settings(activation_per_channel=True))
    for recipe in (PLAIN, PLAIN.with_rules(per_channel)):
        result = quantize(model, batches(feeds, count=2), recipe)
        for node in pairs_of(result.deploy):
            zero_point = node.inputs[2]
            assert zero_point is not None
            assert zero_point.const_value is not None
            by_channel = zero_point.const_value.size > 1
            assert zero_point.dtype == (ir.DataType.INT8 if by_channel else ir.DataType.UINT8)
        nodes = {n.name: n for n in prepared(model).graph}
        for layer, chosen in result.params.layers.items():
            axis = contracted_axis(nodes[layer])
            if axis is not None:
                sums = pair_sums(chosen.values, chosen.weight.axis, axis)
                assert (sums <= PAIR_LIMIT).all()


@pytest.mark.slow
def test_a_learned_rounding_leaves_no_pair_that_can_saturate() -> None:
    model, feeds = NETS["residual"]()
    learned = Rule(AllNodes(), Settings(weight=AlgorithmChoice("ada")))
    result = quantize(model, batches(feeds, count=2), PLAIN.with_rules(learned))
    for chosen in result.params.layers.values():
        assert (pair_sums(chosen.values, chosen.weight.axis, 1) <= PAIR_LIMIT).all()


@pytest.mark.parametrize("name", every_net())
def test_what_is_left_out_changes_no_number(name: str) -> None:
    model, feeds = NETS[name]()
    result = quantize(model, batches(feeds, count=2), PLAIN)
    assert result.float_model is not None
    target = replace(result.plan.target, quantize_moved=True)
    every = emit_qdq(result.float_model, replace(result.plan, target=target), result.params)
    assert len(pairs_of(every)) >= len(pairs_of(result.deploy))
    feed = feeds(batch=4, seed=9)
    for a, b in zip(
        outputs(every, feed, optimize=False),
        outputs(result.deploy, feed, optimize=False),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", every_net())
def test_models_are_valid_and_near_the_float_model(name: str) -> None:
    model, feeds = NETS[name]()
    result = quantize(model, batches(feeds, count=2), Recipe(target="openvino"))
    onnx.checker.check_model(ir.to_proto(result.deploy), full_check=True)
    feed = feeds(batch=4, seed=99)
    assert sqnr_db(outputs(model, feed), outputs(result.deploy, feed, optimize=False)) > 22


def test_a_tensor_has_one_quantizer_where_only_one_reader_takes_scales_by_channel() -> None:
    text = """net (float[N,3,16,16] x) => (float[N,3,16,16] y, float[N,3,16,16] z) {
        d = Conv <group = 3, pads = [1,1,1,1]> (x, w1) y = Conv (d, w2) z = Conv (x, w3) }"""
    weights = {"w1": W.conv(3, 1), "w2": W.conv(3, 3, 1), "w3": W.conv(3, 3, 1)}
    model, feeds = build(text, weights, IMAGE)
    by_channel = Rule(OpType("DepthwiseConv2dNative"), Settings(activation_per_channel=True))
    for target, count in (("generic", 2), ("openvino", 1)):
        recipe = Recipe(target=target, equalize="off", bias_correction="off")
        result = quantize(model, batches(feeds, count=2), recipe.with_rules(by_channel))
        assert sum(a.tensor == "x" for a in result.plan.activations) == count
    assert any("one quantizer a tensor" in note.message for note in result.plan.notes)


@pytest.mark.parametrize("between", ["", "r = Relu (j)"])
def test_what_a_concat_hands_on_keeps_one_scale(between: str) -> None:
    """OpenVINO moves that quantizer in front of the Concat, and clips it where it is signed."""
    last = "r" if between else "j"
    text = f"""net (float[N,3,16,16] x) => (float[N,6,16,16] y) {{
        a = Conv (x, w1) b = Conv (x, w2) j = Concat <axis = 1> (a, b) {between}
        y = Conv <group = 6> ({last}, w3) }}"""
    weights = {"w1": W.conv(3, 3, 1), "w2": W.conv(3, 3, 1), "w3": W.conv(6, 1, 1)}
    model, feeds = build(text, weights, IMAGE)
    by_channel = Rule(OpType("Conv"), Settings(activation_per_channel=True))
    plan = quantize(model, batches(feeds, count=2), PLAIN.with_rules(by_channel)).plan
    assert {a.tensor: a.spec.axis for a in plan.activations} == {
        "x": 1,
        "a": None,
        "b": None,
        last: None,
    }


# ---------------------------------------------------------------------------------- where it is installed


def in_openvino(model: ir.Model, feed: dict[str, Array]) -> list[Array]:
    """Run a model in OpenVINO, in float where it is float."""
    openvino: Any = pytest.importorskip("openvino")
    core = openvino.Core()
    read = core.read_model(ir.to_proto(model).SerializeToString(), b"")
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled.infer_new_request({i.any_name: feed[i.any_name] for i in compiled.inputs})
    return [np.array(answer[o]) for o in compiled.outputs]


@pytest.mark.parametrize("name", every_net())
def test_openvino_computes_what_the_file_says(name: str) -> None:
    model, feeds = NETS[name]()
    deploy = quantize(model, batches(feeds, count=2), PLAIN).deploy
    feed = feeds(batch=4, seed=9)
    reference = outputs(model, feed, optimize=False)
    said = sqnr_db(reference, outputs(deploy, feed, optimize=False))
    assert sqnr_db(reference, in_openvino(deploy, feed)) >= said - 1

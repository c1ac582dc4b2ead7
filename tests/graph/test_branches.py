"""An If whose condition is known gives way to its branch; the others stay, and so do all numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibrant.graph.load import prepare
from calibrant.recipe import Recipe
from tests.models import NETS, Model, Weights, build, normal
from tests.models._text import scalar
from tests.models.bodies import shifted
from tests.road import batches, op_types, outputs, prepared, quantize, sqnr_db

W = Weights(80)
WEIGHTS = {"w1": W.dense(24, 8), "w2": W.dense(8, 8), "two": scalar(2)}

#: Two branches that use the same names, with initializers and constants of their own.
BRANCHES = """
    then_branch = yes () => (float[N,8] o) <float k = {2.0}> {
        p = MatMul (a, w2) q = Mul (p, k) o = Identity (q)
    },
    else_branch = no () => (float[N,8] o) <float k = {3.0}> {
        n = Constant <value = float {0.5}> () p = Mul (a, n) o = Add (p, k)
    }
"""


def with_condition(text: str, **inits: object) -> Model:
    return build(
        f"""net (float[N,24] x) => (float[N,8] y, float[N,8] z) {{
            a = MatMul (x, w1) {text} y = If (c) <{BRANCHES}> z = MatMul (y, w2)
        }}""",
        WEIGHTS | {n: np.asarray(v) for n, v in inits.items()},
        normal(24),
    )


CONDITIONS = {
    "true": (with_condition("c = Identity (f)", f=True), "MatMul"),
    "false": (with_condition("c = Identity (f)", f=False), "Mul"),
    "compared": (with_condition("c = Equal (f, g)", f=16000, g=16000), "MatMul"),
    "not": (with_condition("d = Less (f, g) c = Not (d)", f=1.0, g=2.0), "Mul"),
    "rank": (
        with_condition("s = Shape (x) t = Size (s) c = Equal (t, g)", g=2),
        "MatMul",
    ),
    "a known dimension": (
        with_condition("s = Shape (a) d = Gather (s, i) c = Equal (d, g)", i=-1, g=8),
        "MatMul",
    ),
    "a known part of a shape": (
        with_condition("s = Shape <start = 1> (a) c = Equal (s, g)", g=[9]),
        "Mul",
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_known_condition_dissolves_the_if(name: str) -> None:
    (model, feeds), op = CONDITIONS[name]
    made = prepared(model)
    assert "If" not in op_types(made)
    assert op_types(made)[1] == op
    assert [v.name for v in made.graph.outputs] == ["y", "z"]
    for one, other in zip(outputs(model, feeds()), outputs(made, feeds()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["true", "false"])
def test_the_layers_of_a_branch_are_quantized(name: str) -> None:
    (model, feeds), _ = CONDITIONS[name]
    result = quantize(model, batches(feeds))
    assert {d.op_type for d in result.plan.layers} == {"MatMul"}
    assert all(d.quantized for d in result.plan.layers)
    assert len(result.plan.weights) == (3 if name == "true" else 2)
    assert not result.summary["layers"]["subgraphs_in_float"]
    feed = feeds(seed=4)
    found = outputs(result.deploy, feed, optimize=False)
    assert sqnr_db(outputs(model, feed), found) > 20


@pytest.mark.parametrize(
    "text",
    [
        "s = Shape (x) d = Gather (s, i) c = Equal (d, g)",
        "m = ReduceMax <keepdims = 0> (x) f = Cast <to = 7> (m) c = Equal (f, g)",
    ],
    ids=["a free dimension", "data"],
)
def test_a_condition_that_is_not_known_keeps_the_if(text: str) -> None:
    model, feeds = with_condition(text, i=0, g=3)
    made = prepared(model)
    assert "If" in op_types(made)
    for batch in (2, 3):
        feed = feeds(batch=batch)
        for one, other in zip(outputs(model, feed), outputs(made, feed), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_shapes_that_a_file_holds_from_before_are_not_believed() -> None:
    model, feeds = with_condition("s = Shape (a) d = Gather (s, i) c = Equal (d, g)", i=0, g=1)
    stale = onnx.ModelProto.FromString(model.SerializeToString())
    stale.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 8]))
    made = prepared(stale)
    assert "If" in op_types(made)
    feed = feeds(batch=3)  # ONNX Runtime believes the file, and takes the wrong branch of `stale`
    np.testing.assert_allclose(outputs(made, feed)[0], outputs(model, feed)[0], rtol=1e-6)


def test_an_if_inside_another_is_dissolved_and_the_outer_one_stays() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,8] y) {
            a = MatMul (x, w1)
            mean = ReduceMean <keepdims = 0> (x)
            high = Greater (mean, zero)
            y = If (high) <
                then_branch = yes () => (float[N,8] o) {
                    on = Identity (flag)
                    o = If (on) <
                        then_branch = yes () => (float[N,8] i) { r = Relu (a) i = Mul (r, two) },
                        else_branch = no () => (float[N,8] i) { i = Identity (a) }
                    >
                },
                else_branch = no () => (float[N,8] o) { o = Neg (a) }
            >
        }""",
        WEIGHTS | {"zero": scalar(0), "flag": np.array(True)},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["MatMul", "ReduceMean", "Greater", "If"]
    assert [[n.op_type for n in g] for g in made.graph.subgraphs()] == [["Relu", "Mul"], ["Neg"]]
    for by in (-1.0, 1.0):
        feed = shifted(feeds, by)
        np.testing.assert_allclose(outputs(made, feed)[0], outputs(model, feed)[0], atol=1e-6)


def test_a_branch_that_hands_on_an_outer_value_or_a_constant() -> None:
    model, feeds = build(
        """net (float[N,24] x) => (float[N,24] same, float k, float[N,8] y) {
            same, k, a = If (flag) <
                then_branch = yes () => (float[N,24] o, float p, float[N,8] q) <float p = {4.0}> {
                    o = Identity (x) q = MatMul (x, w1)
                },
                else_branch = no () => (float[N,24] o, float p, float[N,8] q) {
                    o = Neg (x) p = Constant <value = float {5.0}> () q = MatMul (o, w1)
                }
            >
            y = Mul (a, k)
        }""",
        WEIGHTS | {"flag": np.array(True)},
        normal(24),
    )
    made = prepared(model)
    assert [v.name for v in made.graph.outputs] == ["same", "k", "y"]
    assert sorted(op_types(made)) == ["Identity", "Identity", "MatMul", "Mul"]
    for one, other in zip(outputs(model, feeds()), outputs(made, feeds()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_dissolved_model_can_be_prepared_again() -> None:
    (model, feeds), _ = CONDITIONS["true"]
    once = prepared(model)
    twice = prepare(once)
    assert op_types(once) == op_types(twice)
    np.testing.assert_array_equal(outputs(once, feeds())[0], outputs(twice, feeds())[0])


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like"])
@pytest.mark.parametrize("name", ["if_hands_on", "if_in_if"])
def test_both_branches_of_a_quantized_if_compute_what_the_float_model_does(
    name: str, target: str
) -> None:
    model, feeds = NETS[name]()
    data = [shifted(feeds, by, batch=8, seed=s) for s in range(2) for by in (-0.2, 0.2)]
    result = quantize(model, data, Recipe(target=target))
    for by in (-0.2, 0.01, 0.2):
        feed = shifted(feeds, by, seed=9)
        for made in (result.deploy, result.fake_quant):
            found = outputs(made, feed, optimize=False)
            assert sqnr_db(outputs(model, feed), found) > 10  # a quiet branch beside a loud one

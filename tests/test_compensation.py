"""Error compensation on the whole road: every place, every model, and what does not go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibrant.choose import choose_parameters
from calibrant.dialects import load_recipe
from calibrant.emit.qdq import emit_simulated
from calibrant.numerics.compensation import compensate
from calibrant.plan import resolve
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    InputOf,
    Layer,
    LayerInput,
    OpType,
    Recipe,
    Rule,
    Settings,
    Where,
)
from calibrant.results import QuantizedModel
from calibrant.save.tables import plan_table
from tests.models import Model, Weights, build, normal
from tests.road import TARGETS, batches, op_types, outputs, prepared, quantize

IMAGE = normal(6, 9, 9)


def net(kind: str) -> Model:
    """One operator with a place for compensation, called `op`."""
    w = Weights(9)
    text, weights, feeds = {
        "conv": (
            "(float[N,6,9,9] x) => (float[N,8,9,9] y) { op = Conv <pads = [1,1,1,1]> (x, w, b) y = Relu (op) }",
            {"w": w.conv(8, 6), "b": w.vector(8)},
            IMAGE,
        ),
        "transposed": (
            "(float[N,6,9,9] x) => (float[N,4,11,11] y) { y = ConvTranspose <group = 2> (x, w, b) }",
            {"w": w.conv(6, 2), "b": w.vector(4)},
            IMAGE,
        ),
        "gemm": (
            "(float[N,24] x) => (float[N,8] y) { y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b) }",
            {"w": w.dense(8, 24), "b": w.vector(8)},
            normal(24),
        ),
        "matmul": (
            "(float[N,5,24] x) => (float[N,5,8] y) { op = MatMul (x, w) y = Add (op, b) }",
            {"w": w.dense(24, 8), "b": w.vector(8)},
            normal(5, 24),
        ),
        "product": (
            "(float[N,5,24] x) => (float[N,5,5] y) "
            "{ t = Transpose <perm = [0,2,1]> (x) y = MatMul (x, t) }",
            {},
            normal(5, 24),
        ),
        "resize": (
            "(float[N,6,9,9] x) => (float[N,6,18,18] y) "
            '{ y = Resize <mode = "linear"> (x, , scales) }',
            {"scales": np.array([1, 1, 2, 2], np.float32)},
            IMAGE,
        ),
        "sample": (
            "(float[N,6,9,9] x) => (float[N,6,4,4] y) "
            "{ flat = Reshape (x, s) g = Tanh (flat) grid = Slice (g, a, e, ax) "
            "lattice = Reshape (grid, s2) y = GridSample (x, lattice) }",
            {
                "s": np.array([0, 486]),
                "a": np.array([0]),
                "e": np.array([32]),
                "ax": np.array([1]),
                "s2": np.array([0, 4, 4, 2]),
            },
            IMAGE,
        ),
    }[kind]
    return build(f"net {text}", weights, feeds, opset=17)


KINDS = ("conv", "transposed", "gemm", "matmul", "product", "resize", "sample")
OPERATOR = {
    "conv": "Conv",
    "transposed": "ConvTranspose",
    "gemm": "Gemm",
    "matmul": "MatMul",
    "product": "MatMul",
    "resize": "Resize",
    "sample": "GridSample",
}


def recipe(*rules: Rule, target: str = "generic") -> Recipe:
    whole = Settings(
        activation=AlgorithmChoice("min-max"), weight=AlgorithmChoice("max"), activation_bits=8
    )
    return Recipe(
        rules=(Rule(AllNodes(), whole), *rules),
        target=target,
        equalize="off",
        bias_correction="off",
    )


def ec(where: Where, *, on: bool = True) -> Rule:
    return Rule(where, Settings(compensation=on, activation_bits=8, weight_bits=8), "the test")


def made(kind: str, *rules: Rule, target: str = "generic") -> QuantizedModel:
    model, feeds = net(kind)
    return quantize(model, batches(feeds), recipe(*rules, target=target))


def feed(kind: str) -> dict[str, np.ndarray]:
    return batches(net(kind)[1], count=1)[0]


def error(kind: str, result: QuantizedModel) -> float:
    want = outputs(net(kind)[0], feed(kind))[0].astype(np.float64)
    return float(((outputs(result.deploy, feed(kind))[0] - want) ** 2).mean())


# ------------------------------------------------------------------------------ all models agree


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_models_compute_the_same(kind: str, target: str) -> None:
    """Deployed (two operators and an Add), fake-quant (a sum in front) and simulated (floats): one result."""
    if target == "onnxruntime" and kind == "transposed":
        pytest.skip("stays in float there")
    result = made(kind, ec(OpType(OPERATOR[kind])), target=target)
    plan = result.plan
    compensated: list[Any] = [d for d in plan.activations if d.compensation]
    compensated += [w for w in plan.weights if w.compensation]
    assert compensated
    assert not any(n.where == "the test" for n in result.plan.notes)
    model = prepared(net(kind))
    plan = resolve(recipe(ec(OpType(OPERATOR[kind])), target=target), model)
    simulated = emit_simulated(model, plan, choose_parameters(plan, model, result.statistics))
    one, two, three = (
        outputs(m, feed(kind), optimize=False)[0]
        for m in (result.deploy, result.fake_quant, simulated)
    )
    step = max(float(p.scale.max()) for p in result.params.activations.values())
    for other in (two, three):  # an output in integers may round a tie the other way
        np.testing.assert_allclose(one, other, atol=2e-5 + step * 1.01)
        assert (np.abs(one - other) > 2e-5 + step * 1e-2).mean() < 0.01
    np.testing.assert_allclose(outputs(result.deploy, feed(kind))[0], one, atol=2e-5 + step * 1.01)


@pytest.mark.parametrize("kind", KINDS)
def test_compensation_brings_the_output_closer(kind: str) -> None:
    """With the other operand in 16 bits, what is left is the operand with 8."""
    sixteen = Rule(AllNodes(), Settings(activation_bits=16))
    plain, compensated = (
        error(kind, made(kind, sixteen, ec(where, on=on)))
        for where, on in (
            (InputOf(OpType(OPERATOR[kind]), _place(kind)), on) for on in (False, True)
        )
    )
    assert compensated < plain / 100


def _place(kind: str) -> int:
    return 0 if kind in ("resize", "sample") else 1


@pytest.mark.parametrize("kind", ["matmul", "product", "resize", "sample"])
def test_plain_onnxruntime_runs_it_and_equals_the_definition(kind: str) -> None:
    """Both models agree: within 1e-5 of the largest output."""
    result = made(kind, ec(OpType(OPERATOR[kind])))
    found = []
    for model in (result.deploy, result.fake_quant):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, feed(kind))[0])
    one, two = found
    # a residual halfway between two of its steps may go either way: that is one step of 1 / 254
    within = np.abs(one - two) <= 1e-5 * np.abs(two).max()
    assert within.mean() > 0.99
    assert np.abs(one - two).max() < 1e-3 * np.abs(two).max()


# --------------------------------------------------------------------------------------- the form


@pytest.mark.parametrize(
    ("kind", "operators"),
    [("conv", 2), ("transposed", 2), ("gemm", 2), ("matmul", 4), ("resize", 2), ("product", 4)],
)
def test_a_linear_operator_becomes_one_for_each_part(kind: str, operators: int) -> None:
    result = made(kind, ec(OpType(OPERATOR[kind])))
    assert op_types(result.deploy).count(OPERATOR[kind]) == operators
    assert op_types(result.fake_quant).count(OPERATOR[kind]) == 1
    assert [v.name for v in result.deploy.graph.outputs] == ["y"]


@pytest.mark.parametrize("kind", ["conv", "transposed", "gemm"])
def test_the_bias_stays_with_the_first_part(kind: str) -> None:
    result = made(kind, ec(OpType(OPERATOR[kind])))
    nodes = [n for n in result.deploy.graph if n.op_type == OPERATOR[kind]]
    assert sorted(len([v for v in n.inputs if v is not None]) for n in nodes) == [2, 3]


def test_both_parts_of_a_weight_are_int8_with_scales_254_apart() -> None:
    result = made("conv", ec(LayerInput("op", 1)))
    weights = [
        n
        for n in result.deploy.graph
        if n.op_type == "DequantizeLinear"
        and n.inputs[0].const_value is not None  # type: ignore[union-attr]
        and len(n.inputs[0].shape) == 4  # type: ignore[union-attr, arg-type]
    ]
    assert len(weights) == 2
    assert {n.inputs[0].dtype for n in weights} == {ir.DataType.INT8}  # type: ignore[union-attr]
    scales = sorted((n.inputs[1].const_value.numpy() for n in weights), key=lambda s: s.max())  # type: ignore[union-attr]
    np.testing.assert_allclose(scales[1] / scales[0], 254, rtol=1e-6)


def test_the_grid_of_a_sampler_is_summed_before_it() -> None:
    result = made("sample", ec(LayerInput("y", 1)))
    (sampler,) = [n for n in result.deploy.graph if n.op_type == "GridSample"]
    assert sampler.inputs[1].producer().op_type == "Add"  # type: ignore[union-attr]
    split = made("sample", ec(LayerInput("y", 0)))
    assert op_types(split.deploy).count("GridSample") == 2


def test_readers_without_compensation_keep_their_own_quantizer() -> None:
    w = Weights(2)
    model, feeds = build(
        "net (float[N,5,24] x) => (float[N,5,8] y, float[N,5,8] z) "
        "{ y = MatMul (x, w1) z = MatMul (x, w2) }",
        {"w1": w.dense(24, 8), "w2": w.dense(24, 8)},
        normal(5, 24),
    )
    result = quantize(model, batches(feeds), recipe(ec(LayerInput("y", 0))))
    assert [(d.users, d.compensation) for d in result.plan.activations] == [
        ((("y", 0),), True),
        ((("z", 0),), False),
    ]
    assert op_types(result.deploy).count("MatMul") == 3


def test_the_operand_is_what_the_definition_says() -> None:
    result = made(
        "matmul", ec(LayerInput("op", 0)), Rule(LayerInput("op", 1), Settings(weight_bits=16))
    )
    x = feed("matmul")["x"] * 1.2  # some of it is clipped
    (p,) = result.params.activations.values()
    layer = result.params.layers["op"]
    bias = net("matmul")[0].graph.initializer
    b = next(np.frombuffer(t.raw_data, np.float32) for t in bias if t.name == "b")
    want = compensate(x, p).astype(np.float64) @ layer.floats + b
    np.testing.assert_allclose(outputs(result.deploy, {"x": x})[0], want, atol=2e-4)


# --------------------------------------------------------------------------- requests and their limits


def test_a_request_quantizes_an_input_that_the_target_leaves_in_float() -> None:
    with pytest.raises(Exception, match="no operator that target 'generic' quantizes"):
        made("resize")
    for where in (LayerInput("y", 0), InputOf(OpType("Resize"), 0), Layer("y"), OpType("Resize")):
        (d,) = made("resize", ec(where)).plan.activations
        assert (d.users, d.compensation) == ((("y", 0),), True)
    taken_back = (ec(OpType("Resize")), ec(LayerInput("y", 0), on=False))
    (d,) = made("resize", *taken_back).plan.activations
    assert not d.compensation


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(weight_bits=16), "this one has 16 bits"),
        (Settings(weight=AlgorithmChoice("nuq")), "keeps few levels"),
    ],
    ids=["width", "levels"],
)
def test_what_contradicts_compensation_is_noted(settings: Settings, reason: str) -> None:
    model = prepared(net("conv"))
    rules = (Rule(LayerInput("op", 1), Settings(compensation=True), "the test"),)
    plan = resolve(recipe(*rules, Rule(Layer("op"), settings)), model)
    assert [w.compensation for w in plan.weights] == [False]
    assert any(reason in n.message and n.where == "the test" for n in plan.notes)


def test_a_compensated_input_keeps_one_scale() -> None:
    by_channel = Rule(AllNodes(), Settings(activation_per_channel=True))
    plan = resolve(recipe(by_channel, ec(LayerInput("op", 0))), prepared(net("matmul")))
    assert [(d.compensation, d.spec.axis) for d in plan.activations] == [(True, None)]
    assert any("keeps one scale" in n.message for n in plan.notes)


def test_learned_rounding_leaves_compensated_weights(caplog: pytest.LogCaptureFixture) -> None:
    rules = (Rule(AllNodes(), Settings(weight=AlgorithmChoice("ada"))), ec(LayerInput("op", 1)))
    (row,) = made("conv", *rules).summary["passes"]["rounding_learned"]
    assert "error compensation" in row["reason"]


@pytest.mark.parametrize(
    ("qtype", "bits", "compensated"), [("dual-int16", 16, False), ("int16-ec", 8, True)]
)
def test_types_of_both_operands(tmp_path, qtype: str, bits: int, compensated: bool) -> None:
    path = tmp_path / "quant_config.json"
    path.write_text(f'{{"node_config": {{"op": {{"qtype": "{qtype}"}}}}}}')
    model, feeds = net("conv")
    result = quantize(model, batches(feeds), load_recipe(path))
    (activation,), (weight,) = result.plan.activations, result.plan.weights
    assert activation.spec.bits == 16
    assert (weight.spec.bits, weight.compensation) == (bits, compensated)


# -------------------------------------------------------------------------------- what is said of it


def test_plan_and_summary_say_it() -> None:
    result = made("product", ec(LayerInput("y", 1)))
    rows = plan_table(result.plan, result.params)["tensors"]
    assert [r["compensated"] for r in rows] == [False, True]
    assert result.summary["compensation"] == {"operands": 1, "more_operators": 1}
    assert made("product").summary["compensation"] == {"operands": 0, "more_operators": 0}

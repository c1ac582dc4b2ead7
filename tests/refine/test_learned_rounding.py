"""Learned rounding: layers as matrix products, the optimisation, and what becomes of whole models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calibrant.algorithms import RoundingProblem
from calibrant.algorithms._adaround import learn
from calibrant.choose import choose_parameters
from calibrant.data.batch import Batch
from calibrant.dialects import load_recipe
from calibrant.emit.qdq import emit_simulated
from calibrant.numerics.dtype import IntType
from calibrant.plan import Plan, resolve
from calibrant.plan.parameters import Parameters
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.refine._functions import FUNCTIONS
from calibrant.refine._rows import LayerRows
from calibrant.refine.learned_rounding import learn_rounding
from calibrant.results import QuantizedModel
from calibrant.runtime.measure import run
from calibrant.runtime.observe import observe
from calibrant.runtime.tap import expose
from tests.models import NETS, Array
from tests.road import batches, outputs, prepared, quantize

OPTIONS: dict[str, Any] = {
    "iterations": 400,
    "regularization": 0.01,
    "beta_range": (20.0, 2.0),
    "warm_start": 0.2,
}


def one_node(op: str, weight: np.ndarray, rank: int, **attributes: Any) -> Any:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(op: str, weight: np.ndarray, x: np.ndarray, **attributes: Any) -> None:
    """A layer's output is the product of its rows with its weight."""
    model = one_node(op, weight, x.ndim, **attributes)
    (y,) = outputs(model, {"x": x})
    rows = LayerRows(ir.from_proto(model).graph.node("layer"), weight.shape)
    every = np.arange(rows.count(y))
    found = rows.inputs(x, every) @ rows.weight(weight).transpose(0, 2, 1)
    np.testing.assert_allclose(found, rows.outputs(y, every), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows.unweight(rows.weight(weight)), weight)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Conv", "ConvTranspose"]),
    st.sampled_from([(1, 2, 3), (2, 4, 2), (4, 4, 4)]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.one_of(
        st.tuples(*[st.integers(0, 2)] * 4),
        st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    ),
)
def test_convolutions_are_matrix_products(
    op: str,
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: tuple[int, ...] | str,
) -> None:
    groups, inner, outer = channels
    rng = np.random.default_rng(0)
    shape = (outer, inner // groups) if op == "Conv" else (inner, outer // groups)
    assume(outer % groups == 0)
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    if isinstance(padding, str):
        assume(op == "Conv" or padding == "VALID")
        assume(padding == "VALID" or dilations == (1, 1))
        attributes["auto_pad"] = padding
    else:
        attributes["pads"] = padding
    weight = rng.normal(size=(*shape, *kernel)).astype(np.float32)
    x = rng.normal(size=(2, inner, 7, 6)).astype(np.float32)
    check(op, weight, x, **attributes)


@pytest.mark.parametrize("transposed", [0, 1])
def test_matrix_products_are_their_rows(transposed: int) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 3) if transposed else (3, 5)).astype(np.float32)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    check("Gemm", w, x, transB=transposed, alpha=0.5)
    if not transposed:
        check("MatMul", w, rng.normal(size=(2, 6, 3)).astype(np.float32))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n])
def test_slopes_of_activation_functions(name: str) -> None:
    options = {"alpha": np.float32(0.1), "min": np.float32(-1), "max": np.float32(2)}
    z = np.array([-3.3, -0.71, 0.3, 1.4, 2.6])
    step = 1e-3
    values = [FUNCTIONS[name](z + d, options)[0] for d in (-step, step)]
    slope = (values[1] - values[0]) / (2 * step)
    np.testing.assert_allclose(FUNCTIONS[name](z, options)[1], slope, atol=2e-3)


def problem(bits: int = 3, seed: int = 0, function: str = "Relu") -> RoundingProblem:
    rng = np.random.default_rng(seed)
    mixed = 0.3 * rng.normal(size=(6, 24))  # correlated, as inputs are
    x = (rng.normal(size=(1, 400, 6)) @ mixed + 0.02 * rng.normal(size=(1, 400, 24))).astype("f")
    w = rng.normal(size=(1, 8, 24)).astype(np.float32)
    dtype = IntType(4 if bits == 3 else bits)
    scale = np.abs(w).max(axis=2, keepdims=True) / dtype.qmax
    apply = FUNCTIONS[function]
    y = apply(x @ w.transpose(0, 2, 1), {})[0]
    return RoundingProblem(
        x,
        y,
        w,
        np.broadcast_to(scale, w.shape).astype(np.float32),
        np.zeros((1, 1, 8), np.float32),
        dtype,
        lambda z: apply(z, {}),
    )


@pytest.mark.parametrize("function", ["", "Relu"])
def test_learning_halves_the_error_of_a_correlated_layer(function: str) -> None:
    p = problem(function=function)
    nearest = np.clip(np.rint(p.weight / p.scale), p.dtype.qmin, p.dtype.qmax)
    steps = learn(p, **OPTIONS | {"iterations": 2000})
    assert p.errors(steps).sum() < 0.5 * p.errors(nearest).sum()
    assert np.abs(steps - p.weight / p.scale).max() <= 1 + 1e-5  # up or down, nothing else
    assert steps.min() >= p.dtype.qmin
    assert steps.max() <= p.dtype.qmax


def test_no_iterations_round_to_nearest() -> None:
    p = problem()
    steps = learn(p, **OPTIONS | {"iterations": 0})
    np.testing.assert_array_equal(steps, np.clip(np.floor(p.weight / p.scale + 0.5), -8, 7))


def test_the_same_problem_has_the_same_answer() -> None:
    np.testing.assert_array_equal(learn(problem(), **OPTIONS), learn(problem(), **OPTIONS))


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 40},
        {"regularization": 0.9},
        {"beta_range": (3.0, 1.1)},
        {"warm_start": 0.95},
    ],
    ids=lambda c: next(iter(c)),
)
def test_each_option_changes_what_is_learned(change: dict[str, Any]) -> None:
    base = OPTIONS | {"iterations": 1500, "regularization": 0.3, "beta_range": (20.0, 1.1)}
    assert (learn(problem(), **base) != learn(problem(), **base | change)).any()


# ----------------------------------------------------------------------------------------- whole models


def four_bits(name: str, weight: str, **options: Any) -> QuantizedModel:
    model, feeds = NETS[name]()
    wanted = Settings(
        weight=AlgorithmChoice.of(weight, options),
        weight_bits=4,
        activation=AlgorithmChoice("min-max"),
        activation_bits=16,
    )
    recipe = Recipe((Rule(AllNodes(), wanted),), bias_correction="off", equalize="off")
    return quantize(model, batches(feeds), recipe)


def quality(result: QuantizedModel) -> float:
    return float(result.summary["quality"]["outputs"]["y"]["sqnr_db"])


def test_a_network_with_four_bit_weights_gains() -> None:
    nearest = four_bits("gemm_mlp", "ada", iterations=0)
    learned = four_bits("gemm_mlp", "ada", iterations=500)
    assert quality(learned) > quality(nearest) + 2
    for layer in learned.summary["passes"]["rounding_learned"]:
        assert layer["learned"] < layer["nearest"]
        assert layer["kept"] > 0.2
        assert 0 < layer["changed"] < 0.5


@pytest.mark.parametrize("name", ["conv_bn_relu", "depthwise_leaky", "conv_transpose", "grouped"])
def test_convolutions_learn_and_both_models_agree(name: str) -> None:
    result = four_bits(name, "ada", iterations=300)
    report = result.summary["passes"]["rounding_learned"]
    assert any(layer["kept"] > 0 for layer in report)
    assert all((layer["learned"] < layer["nearest"]) == (layer["kept"] > 0) for layer in report)
    _, feeds = NETS[name]()
    feed = feeds(batch=4, seed=9)
    (a,), (b,) = (outputs(m, feed, optimize=False) for m in (result.deploy, result.fake_quant))
    np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(b).max())


def test_the_vendors_configuration_learns(tmp_path: Path) -> None:
    model, feeds = NETS["gemm_mlp"]()
    found = {}
    for iterations in (0, 300):
        config = {
            "version": 1,
            "fc1": {
                "quant_enable": True,
                "weight_quant_params": {
                    "wts_algo": "ada_quantize",
                    "num_iteration": iterations,
                    "channel_wise": False,
                },
            },
        }
        path = tmp_path / f"config{iterations}.json"
        path.write_text(json.dumps(config))
        result = quantize(model, batches(feeds), load_recipe(path))
        found[iterations] = result.params.layers["fc1"].values
        (report,) = result.summary["passes"]["rounding_learned"]
        assert report["layer"] == "fc1"
    assert (found[0] != found[300]).any()


def solved(name: str, **options: Any) -> tuple[ir.Model, Plan, Parameters, list[dict[str, Array]]]:
    """Resolve and choose, as the pipeline does before it learns."""
    made, feeds = NETS[name]()
    model = prepared(made)
    choice = AlgorithmChoice.of("ada", options)
    rule = Rule(AllNodes(), Settings(weight=choice, weight_bits=4))
    plan = resolve(Recipe((rule,), bias_correction="off", equalize="off"), model)
    data = batches(feeds)
    seen = observe(model, plan.observed_tensors, [Batch(f, {}, 0, 8, "data") for f in data])
    return model, plan, choose_parameters(plan, model, seen), data


@pytest.mark.parametrize("name", ["residual", "concat_branches", "attention_add", "gemm_mlp"])
def test_each_model_runs_once_however_many_layers_learn(name: str) -> None:
    model, plan, params, data = solved(name, iterations=1)
    done = 0

    class Counted(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, source: bytes, *rest: Any, **more: Any) -> None:
            self.nodes = len(onnx.load_from_string(source).graph.node)
            super().__init__(source, *rest, **more)

        def run(self, *arguments: Any) -> Any:
            nonlocal done
            done += self.nodes
            return super().run(*arguments)

    with mock.patch.object(ort, "InferenceSession", Counted):
        _, report = learn_rounding(model, plan, params, data)
    assert len([entry for entry in report if not entry.reason]) > 1
    both = len(list(model.graph)) + len(list(emit_simulated(model, plan, params).graph))
    assert done <= both * len(data)


@pytest.mark.parametrize("name", ["residual", "concat_branches"])
def test_layers_learn_what_the_whole_models_show_there(name: str) -> None:
    """With 0 iterations each layer's error is that of whole models, run to that layer."""
    model, plan, params, data = solved(name, iterations=0)
    _, report = learn_rounding(model, plan, params, data)
    simulated = emit_simulated(model, plan, params)
    found = {e.layer: e.nearest for e in report if not e.reason}
    for layer in found:
        value = model.graph.node(layer).outputs[0]
        read_by = [use.node.op_type for use in value.uses()]
        bound = 0 if read_by == ["Relu"] else -np.inf
        both = (
            run(expose(m, [value.name or ""]), data, integers=False) for m in (model, simulated)
        )
        pairs = [
            [np.maximum(x[value.name], bound) for x in pair] for pair in zip(*both, strict=True)
        ]
        error = np.mean([np.square(a - b).mean() for a, b in pairs])
        assert found[layer] == pytest.approx(float(error), rel=3e-3)  # biases are rounded there

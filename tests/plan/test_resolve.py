"""Rules and a model become decisions: which settings hold where, and what cannot be done."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibrant.errors import ConfigRuntimeError, ConfigValueError, UnsupportedError
from calibrant.plan import Plan, resolve
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Layer,
    LayerInput,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
    Where,
)
from tests.models import NETS, Weights, build, linear, normal, structure
from tests.road import TARGETS, prepared

W = Weights(0)


def plan(net: str | onnx.ModelProto, *rules: Rule, target: str = "generic") -> Plan:
    model = NETS[net]()[0] if isinstance(net, str) else net
    return resolve(Recipe(rules=rules, target=target), prepared(model))


def rule(where: Where, **settings: object) -> Rule:
    return Rule(where, Settings(**settings), "file:1")  # type: ignore[arg-type]


def activation_bits(found: Plan) -> dict[str, int]:
    return {d.id: d.spec.bits for d in found.activations}


def test_defaults_hold_where_no_rule_speaks() -> None:
    found = plan("residual")
    assert {(d.spec.bits, d.spec.symmetric) for d in found.activations} == {(8, False)}
    assert {(w.spec.bits, w.spec.symmetric, w.spec.axis) for w in found.weights} == {(8, True, 0)}
    assert all(w.algorithm == AlgorithmChoice("auto") and not w.origin for w in found.weights)


def test_the_last_rule_that_matches_wins_field_by_field() -> None:
    found = plan(
        "residual",
        Rule(AllNodes(), Settings(activation_bits=16, weight_bits=4), "all"),
        Rule(OpType("Conv"), Settings(weight_bits=6), "type"),
        Rule(Layer("conv2"), Settings(weight_bits=8), "layer"),
        Rule(Layer("conv3"), Settings(activation_bits=8), "other"),
    )
    assert {w.layer: w.spec.bits for w in found.weights} == {
        "conv0": 6,
        "conv1": 6,
        "conv2": 8,
        "conv3": 6,
        "conv4": 6,
    }
    (conv2,) = [w for w in found.weights if w.layer == "conv2"]
    assert conv2.origin == {"activation_bits": "all", "weight_bits": "layer"}
    assert activation_bits(found)["relu2"] == 8
    assert activation_bits(found)["relu1"] == 16


def test_readers_with_other_settings_have_a_quantizer_of_their_own() -> None:
    model = build(
        """net (float[N,8] x) => (float[N,4] y, float[N,4] z) {
            y = MatMul (x, w) z = MatMul (x, v)
        }""",
        {"w": W.dense(8, 4), "v": W.dense(8, 4)},
        normal(8),
    )[0]
    found = plan(model, rule(Layer("z"), activation_bits=16))
    assert {d.id: (d.users, d.spec.bits) for d in found.activations} == {
        "x": ((("y", 0),), 8),
        "x#2": ((("z", 0),), 16),
    }
    assert len({d.group for d in found.activations}) == 2


def test_one_quantizer_serves_all_readers_of_an_integer_output() -> None:
    found = plan("residual", rule(Layer("conv1"), activation_bits=16), target="onnxruntime")
    (relu0,) = [d for d in found.activations if d.tensor == "relu0"]
    assert relu0.spec.bits == 16
    assert relu0.users == (("conv1", 0), ("add1", 0))


def test_a_layer_can_be_left_in_float_with_a_reason() -> None:
    found = plan("residual", Rule(Layer("conv2"), Settings(compute="float32"), "line 7"))
    assert {d.node: (d.quantized, d.reason) for d in found.layers}["conv2"] == (
        False,
        "float32 asked for by line 7",
    )
    assert "relu1" not in {d.tensor for d in found.activations}


def test_a_pattern_matches_several_layers() -> None:
    found = plan("residual", rule(Layer("conv[12]"), compute="float32"))
    assert [d.node for d in found.layers if not d.quantized] == ["conv1", "conv2"]


def test_one_input_can_stay_in_float() -> None:
    found = plan("attention_where", rule(LayerInput("product", 1), compute="float32"))
    tensors = {d.tensor for d in found.activations}
    assert "k" not in tensors
    assert "q" in tensors


def test_one_more_input_can_be_quantized() -> None:
    found = plan("residual", rule(LayerInput("add1", 1), compute="int"))
    assert [d.users for d in found.activations if d.tensor == "conv2"] == [(("add1", 1),)]


def test_an_input_that_holds_no_float_activations_is_noted() -> None:
    found = plan("attention_add", rule(LayerInput("h", 1), compute="int"))
    assert "ids" not in {d.tensor for d in found.activations}
    assert [n.where for n in found.notes] == ["file:1"]


def test_a_subgraph_is_what_lies_on_its_paths() -> None:
    where = Subgraph("block", ("conv1",), ("add1",))
    found = plan("residual", rule(where, compute="float32"))
    assert [d.node for d in found.layers if not d.quantized] == ["conv1", "conv2"]
    by_tensor = plan("residual", rule(Subgraph("b", ("x",), ("conv1",)), compute="float32"))
    assert [d.node for d in by_tensor.layers if not d.quantized] == ["conv0", "conv1"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Layer("conv_1"), r"file:1: layer 'conv_1' is not in the model.*Did you mean 'conv1'"),
        (Layer("zz*"), r"layer 'zz\*' is not in the model \(5 quantizable layers, 11 nodes\)"),
        (OpType("Convv"), r"file:1: .*'Convv'.*Did you mean 'Conv'"),
        (LayerInput("conv1", 5), r"'conv1' has no input 5; it has inputs 0 to 2"),
        (Subgraph("s", ("conv9",), ("y",)), r"subgraph 's' names 'conv9'.*Did you mean"),
        (Subgraph("s", ("y",), ("conv0",)), r"subgraph 's' is empty"),
    ],
)
def test_a_rule_for_what_the_model_does_not_have(where: Where, message: str) -> None:
    with pytest.raises(ConfigValueError, match=message):
        plan("residual", rule(where, weight_bits=8))


def test_a_type_that_the_model_does_not_have_is_a_note() -> None:
    found = plan("residual", rule(OpType("ConvTranspose"), weight_bits=4))
    assert ["ConvTranspose" in n.message for n in found.notes] == [True]


def test_widths_that_the_target_does_not_run() -> None:
    with pytest.raises(ConfigValueError, match=r"'generic' does not run 4-bit activations.*8, 16"):
        plan("residual", rule(AllNodes(), activation_bits=4))


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_with_nothing_to_quantize(target: str) -> None:
    with pytest.raises(ConfigRuntimeError, match=r"has no operator that target .* quantizes"):
        plan(structure.nothing_to_quantize()[0], target=target)


def test_a_recipe_that_leaves_nothing() -> None:
    nobody = Rule(AllNodes(), Settings(compute="float32"), "file: not asked for", "implied")
    with pytest.raises(
        ConfigRuntimeError,
        match=r"3 layers, 3 stay in float \('fc1', …\): float32 asked for by file: not asked for",
    ):
        plan("matmul_mlp", nobody)
    asked = plan("matmul_mlp", rule(AllNodes(), compute="float32"))
    assert not asked.weights
    assert asked.notes[-1].where == "file:1"


def test_a_model_of_integers_says_so() -> None:
    model = build(
        "net (int32[N,24] x) => (int32[N,8] y) { y = MatMul (x, w) }",
        {"w": np.ones((24, 8), dtype=np.int32)},
        normal(24),
    )[0]
    with pytest.raises(ConfigRuntimeError, match="its input is int32, and float32 alone"):
        plan(model)


def test_what_is_not_implemented_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="activation algorithm 'ulq'"):
        plan("residual", rule(AllNodes(), activation=AlgorithmChoice("ulq")))


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'ifrm'"):
        plan("residual", rule(AllNodes(), activation=AlgorithmChoice("ifrm")))


def test_wide_types_are_known_before_anything_is_emitted() -> None:
    assert not plan("residual").needs_wide_types
    assert plan("residual", rule(Layer("conv1"), weight_bits=4)).needs_wide_types
    assert plan("residual", rule(Layer("conv1"), activation_bits=16)).needs_wide_types
    assert not plan("residual", rule(Layer("conv1"), weight_bits=6)).needs_wide_types
    for storage, wide in (("int8", False), ("indices", True)):
        choice = AlgorithmChoice.of("nuq", {"levels": 16, "storage": storage})
        assert plan("residual", rule(Layer("conv1"), weight=choice)).needs_wide_types is wide


def test_a_fixed_range_needs_no_statistics() -> None:
    found = plan("attention_where")
    assert "weight" not in found.observed_tensors
    (weight,) = [d for d in found.activations if d.tensor == "weight"]
    assert weight.fixed_range == (0.0, 1.0)
    assert not weight.spec.symmetric


def test_fixed_batch_resolves() -> None:
    assert plan(linear.fixed_batch()[0]).observed_tensors == ("x",)

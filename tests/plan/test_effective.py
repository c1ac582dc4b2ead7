from __future__ import annotations

import onnx_ir as ir
import pytest

from calibrant.errors import ConfigValueError
from calibrant.graph.load import load, prepare
from calibrant.graph.targets import get
from calibrant.plan import resolve
from calibrant.plan.effective import Effective
from calibrant.recipe import (
    AllNodes,
    AllOf,
    Calibration,
    Force,
    InputOf,
    Layer,
    LayerInput,
    Limit,
    MappedLayers,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Source,
    Subgraph,
    Where,
)
from tests.models import NETS

LIMITS = (
    Limit(OpType("Linear"), "weight_per_channel", (False,), "it has no channels"),
    Limit(OpType("Linear"), "activation_bits", (8,), "it has no bias", "no bias"),
    Limit(OpType("Conv1d"), "weight_bits", (4, 8), "of its kernel"),
    Limit(OpType("Conv2d"), "weight_bits", (8,), "of its groups", "grouped or odd inputs"),
)


def model(name: str) -> ir.Model:
    return prepare(load(NETS[name]()[0]))


def effective(
    net: str, *rules: Rule, limits: tuple[Limit, ...] = ()
) -> tuple[dict[str, Settings], list[Note], Effective]:
    prepared, notes = model(net), list[Note]()
    found = Effective(Recipe(rules=rules, limits=limits), prepared, get("layers-only"), notes)
    return {n.name or "": found.of(n)[0] for n in prepared.graph}, notes, found


def rule(where: Where, force: Force = "wished", **settings: object) -> Rule:
    return Rule(where, Settings(**settings), "file:1", force)  # type: ignore[arg-type]


@pytest.mark.parametrize(("force", "noted"), [("implied", 0), ("wished", 1)])
def test_a_setting_beyond_a_limit_gives_way_and_only_a_wish_is_noted(
    force: Force, noted: int
) -> None:
    layers, notes, _ = effective(
        "conv_bn_relu", rule(AllNodes(), force, weight_per_channel=True), limits=LIMITS
    )
    assert layers["conv1"].weight_per_channel is True
    assert layers["y"].weight_per_channel is False
    assert len(notes) == noted
    assert all("in layer 'y'" in n.message and "no channels" in n.message for n in notes)


def test_a_requirement_beyond_a_limit_is_an_error_that_ends_with_the_layer() -> None:
    with pytest.raises(ConfigValueError) as e:
        effective(
            "conv_bn_relu", rule(Layer("y"), "required", weight_per_channel=True), limits=LIMITS
        )
    assert str(e.value).startswith("file:1: weight per channel is on for a Gemm")
    assert str(e.value).endswith("it is off in layer y")


def test_a_default_that_no_rule_asks_for_stays_within_the_limits_in_silence() -> None:
    layers, notes, _ = effective("conv_bn_relu", limits=LIMITS)
    assert layers["y"].weight_per_channel is False
    assert notes == []


def test_a_requirement_for_a_layer_in_float_is_left_alone() -> None:
    layers, notes, _ = effective(
        "conv_bn_relu",
        rule(Layer("y"), "required", weight_per_channel=True, compute="float32"),
        limits=LIMITS,
    )
    assert layers["y"].compute == "float32"
    assert notes == []


def test_the_nearest_allowed_value_is_taken() -> None:
    assert Limit(AllNodes(), "weight_bits", (4, 8), "").nearest(6) == 8
    assert Limit(AllNodes(), "weight_bits", (4, 8), "").nearest(16) == 8
    assert Limit(AllNodes(), "activation_symmetric", (True,), "").nearest(False) is True


def test_limits_by_bias_and_by_groups() -> None:
    wide = rule(AllNodes(), activation_bits=16)
    assert effective("matmul_mlp", wide, limits=LIMITS)[0]["fc2"].activation_bits == 8
    assert effective("matmul_mlp", wide, limits=LIMITS)[0]["fc1"].activation_bits == 16
    small = rule(AllNodes(), weight_bits=4)
    layers = effective("grouped", small, limits=LIMITS)[0]
    assert (layers["conv2"].weight_bits, layers["y"].weight_bits) == (8, 4)
    assert layers["conv1"].weight_bits == 8  # three input channels


def test_no_balance_takes_back_balance() -> None:
    asked = rule(AllNodes(), balance=0.5)
    layers = effective("residual", asked, rule(Layer("conv1"), balance=0.0))[0]
    assert (layers["conv0"].balance, layers["conv1"].balance) == (0.5, None)


def test_a_required_rule_for_what_is_not_quantized_is_an_error() -> None:
    with pytest.raises(
        ConfigValueError, match=r"file:1: layer 'relu1' is a Relu, which is not quantized"
    ):
        effective("conv_bn_relu", rule(Layer("relu1"), "required", compute="float32"))
    with pytest.raises(ConfigValueError, match="is a Relu"):
        effective("conv_bn_relu", rule(OpType("Relu"), "required", compute="float32"))
    effective("conv_bn_relu", rule(Layer("relu1"), compute="float32"))


def test_an_unknown_type_is_told_with_its_rule() -> None:
    with pytest.raises(
        ConfigValueError, match=r"file:1: Unknown operator type 'softmax'.*'Softmax'"
    ):
        effective("conv_bn_relu", rule(OpType("softmax")))


def test_a_type_that_the_model_lacks_is_noted_unless_implied() -> None:
    assert len(effective("residual", rule(OpType("Gemm"), compute="int"))[1]) == 1
    assert effective("residual", rule(OpType("Gemm"), "implied", compute="int"))[1] == []


def test_an_input_of_a_type() -> None:
    _, _, found = effective("matmul_mlp", rule(InputOf(OpType("MatMul"), 1), weight_bits=16))
    node = next(n for n in model("matmul_mlp").graph if n.name == "fc1")
    assert found.of(node, 1)[0].weight_bits == 16
    assert found.of(node, 0)[0].weight_bits == 8
    with pytest.raises(ConfigValueError, match="no node of op MatMul has an input 9"):
        effective("matmul_mlp", rule(InputOf(OpType("MatMul"), 9), weight_bits=16))


def test_an_input_may_be_for_some_types_alone() -> None:
    effective("residual", rule(LayerInput("add1", 0, ("MaxPool", "Add")), compute="int"))
    with pytest.raises(ConfigValueError, match=r"'conv1' is a Conv; .* for MaxPool or Add alone"):
        effective("residual", rule(LayerInput("conv1", 0, ("MaxPool", "Add")), compute="int"))


def test_all_of_several() -> None:
    both = AllOf((OpType("Conv"), Layer("conv1")))
    layers = effective("residual", rule(both, weight_bits=4))[0]
    assert [n for n, s in layers.items() if s.weight_bits == 4] == ["conv1"]
    neither = AllOf((OpType("Gemm"), Layer("conv1")))
    assert effective("residual", rule(neither, weight_bits=4))[1] == []


def test_mapped_layers() -> None:
    layers = effective("residual", rule(MappedLayers("m.json", ("conv1", "gone")), weight_bits=4))[
        0
    ]
    assert [n for n, s in layers.items() if s.weight_bits == 4] == ["conv1"]
    with pytest.raises(ConfigValueError, match=r"'m.json' names 1 layers, and none"):
        effective("residual", rule(MappedLayers("m.json", ("gone",)), weight_bits=4))
    with pytest.raises(
        ConfigValueError, match=r"file:1: the mapping file 'm.json' does not exist"
    ):
        effective("residual", rule(MappedLayers("m.json", None), weight_bits=4))


def test_subgraphs_that_share_a_node_must_agree_where_they_are_exclusive() -> None:
    first = rule(Subgraph("a", ("conv0",), ("conv2",), exclusive=True), activation_bits=16)
    second = rule(Subgraph("b", ("conv2",), ("conv4",), exclusive=True), activation_bits=8)
    with pytest.raises(
        ConfigValueError, match=r"node 'conv2' is in subgraph 'b'.*activation_bits is 8"
    ):
        effective("residual", first, second)
    open_one = rule(Subgraph("b", ("conv2",), ("conv4",)), activation_bits=8)
    assert effective("residual", first, open_one)[0]["conv2"].activation_bits == 8


def test_compensation_has_its_places() -> None:
    effective("residual", rule(LayerInput("conv1", 1), compensation=True))
    for where in (LayerInput("conv1", 0), Layer("relu1"), LayerInput("add1", 0)):
        with pytest.raises(
            ConfigValueError, match=r"has no place for error compensation. Places: Conv"
        ):
            effective("residual", rule(where, compensation=True))
    _, _, found = effective("residual", rule(Layer("conv1"), compensation=True))
    node = next(n for n in model("residual").graph if n.name == "conv1")
    assert found.of(node, 1)[0].compensation is True
    assert found.of(node, 0)[0].compensation is False


def test_the_weight_of_a_layer_follows_a_rule_for_its_input() -> None:
    plan = resolve(Recipe(rules=(rule(LayerInput("conv1", 1), weight_bits=4),)), model("residual"))
    assert {w.layer: w.spec.bits for w in plan.weights}["conv1"] == 4


def test_a_wish_where_nothing_is_quantized_is_noted() -> None:
    recipe = Recipe(rules=(rule(LayerInput("add1", 0), activation_bits=16),))
    notes = resolve(recipe, model("residual")).notes
    assert [n.message for n in notes] == ["Target 'generic' quantizes nothing of input 0 of add1."]
    heard = Recipe(rules=(rule(LayerInput("add1", 0), activation_bits=16, compute="int"),))
    assert resolve(heard, model("residual")).notes == ()


def test_a_limit_for_one_input() -> None:
    limit = Limit(InputOf(OpType("MatMul"), 1), "weight_bits", (8,), "of its second operand")
    wide = rule(OpType("MatMul"), weight_bits=16, activation_bits=16)
    _, _, found = effective("matmul_mlp", wide, limits=(limit,))
    node = next(n for n in model("matmul_mlp").graph if n.name == "fc1")
    assert found.of(node, 1)[0].weight_bits == 8
    assert found.of(node, 0)[0].weight_bits == 16
    assert found.of(node, 1)[0].activation_bits == 16


def test_data_that_a_configuration_names_is_for_every_input() -> None:
    source = Source(path="a", kind="numbers")
    for count, fits in ((0, True), (1, True), (2, False)):
        recipe = Recipe(calibration=Calibration(sources=(source,) * count))
        if fits:
            Effective(recipe, model("residual"), get("generic"), [])
            continue
        with pytest.raises(
            ConfigValueError, match=r"data for 2 inputs, and the model has 1 \(x\)"
        ):
            Effective(recipe, model("residual"), get("generic"), [])

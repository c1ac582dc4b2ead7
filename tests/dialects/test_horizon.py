from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import calibrant
from calibrant.dialects import load_recipe
from calibrant.dialects.horizon import quant_config as horizon_json
from calibrant.dialects.horizon.candidates import candidate_name
from calibrant.errors import ConfigTypeError, ConfigValueError, UnsupportedError
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, Promotion, Recipe, Rule, Search
from tests.dialects._help import GOLDEN, of_input, prepared, settings
from tests.models import NETS

FILE = Path("quant_config.json")
ONE = {"activation": {"calibration_type": "max"}}


def load(model: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    content = {"model_config": {**ONE, **(model or {})}, **sections}
    return horizon_json.load(json.dumps(content, indent=1), FILE)


def activation(**fields: Any) -> Recipe:
    return horizon_json.load(json.dumps({"model_config": {"activation": fields}}), FILE)


def names(recipe: Recipe, node: str = "conv1") -> list[str]:
    """Return the candidates of a node as the vendor's logs print them."""
    s = settings(recipe)[0][node]
    return [candidate_name(c) for c in s.candidates or (s,)]


def free(recipe: Recipe) -> Recipe:
    """Return a recipe for a device that takes every width, to see what the file asks for."""
    return replace(recipe, target="generic")


def bits(recipe: Recipe, node: str = "conv1", net: str = "residual") -> tuple[Any, ...]:
    s = settings(free(recipe), net)[0][node]
    return s.compute, s.activation_bits, s.weight_bits


def node(**fields: Any) -> dict[str, Any]:
    return {"node_config": {"conv1": fields}}


# --------------------------------------------------------------------------------------- whole file


def test_the_full_schema_of_the_specification() -> None:
    recipe = load_recipe(GOLDEN / "horizon_full.json")
    assert recipe.search == Search(scope="layer")
    assert recipe.promote == Promotion(count=20, precision="int16")
    assert recipe.output_precision == "float32"
    assert recipe.bias_correction == "off"  # the rule asks for its layers
    origins = {r.origin.split(" ", 1)[1] for r in recipe.rules if r.force != "implied"}
    assert "node_config.MatMul_7.input1" in origins
    assert "subgraph_config.head.qtype" in origins
    whole = next(r for r in recipe.rules if "model_config.activation" in r.origin)
    assert len(whole.settings.candidates or ()) == 16


def test_defaults_are_the_vendors() -> None:
    recipe = load()
    s = settings(recipe)[0]["conv1"]
    assert (s.compute, s.activation_bits, s.weight_bits) == ("int", 8, 8)
    assert (s.activation_symmetric, s.activation_per_channel) == (True, False)
    assert (s.weight, s.weight_per_channel) == (AlgorithmChoice("max"), True)
    assert recipe.target == "horizon-like"
    assert (recipe.bias_correction, recipe.equalize) == ("off", "off")
    assert recipe.search is None


def test_without_a_method_the_default_search_runs() -> None:
    recipe = horizon_json.load('{"model_config": {}}', FILE)
    assert names(recipe) == ["max", "max-percentile:percentile=0.99995", "kl:num_bin=1024"]
    assert recipe.search == Search(scope="model", then_per_channel=True)


def test_a_run_uses_what_is_asked_for() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    recipe = load({"all_node_type": "int16"}, node_config={"conv2": {"qtype": "float32"}})
    done = calibrant.quantize(model, feeds(batch=4), recipe)
    assert {d.spec.bits for d in done.plan.activations} == {16}
    assert {str(d.algorithm) for d in done.plan.activations} == {"max(max_percentile=1.0)"}
    assert {w.algorithm.name for w in done.plan.weights} == {"max"}
    assert {d.node for d in done.plan.layers if not d.quantized} == {"conv2"}


# -------------------------------------------------------------------------------- levels, precedence


def test_the_same_field_at_four_levels() -> None:
    everything: dict[str, Any] = {
        "op_config": {"Conv": {"qtype": "int16"}},
        "subgraph_config": {"s": {"inputs": ["conv1"], "outputs": ["conv2"], "qtype": "float16"}},
        "node_config": {"conv2": {"qtype": "float32"}},
    }
    recipe = load(**everything)
    found = {n: bits(recipe, n) for n in ("conv0", "conv1", "conv2")}
    assert found["conv0"] == ("int", 16, 16)
    assert found["conv1"][0] == "float16"
    assert found["conv2"][0] == "float32"


def test_levels_merge_field_by_field() -> None:
    recipe = load(
        op_config={"Conv": {"qtype": "int16"}}, **node(activation={"max_percentile": 0.9})
    )
    assert bits(recipe) == ("int", 16, 16)
    assert names(recipe) == ["max-percentile:percentile=0.9"]
    assert names(recipe, "conv2") == ["max"]


def test_an_input_keeps_the_types_of_the_others() -> None:
    recipe = load({"all_node_type": "int16"}, **node(input1="int8"))
    assert of_input(recipe, "conv1", 0).activation_bits == 16
    assert of_input(recipe, "conv1", 1).weight_bits == 8


def test_an_input_of_a_coarser_level_beats_the_type_of_a_node() -> None:
    recipe = load(op_config={"Conv": {"input1": "int8"}}, **node(qtype="int16"))
    assert of_input(recipe, "conv1", 0).activation_bits == 16
    assert of_input(recipe, "conv1", 1).weight_bits == 8


def test_activation_fields_of_an_operator_and_a_node_come_together() -> None:
    recipe = load(
        op_config={"Conv": {"activation": {"num_bin": 2048}}},
        **node(activation={"calibration_type": "kl"}),
    )
    assert names(recipe) == ["kl:num_bin=2048"]
    other = load(
        op_config={"Gemm": {"activation": {"num_bin": 2048}}},
        **node(activation={"calibration_type": "kl"}),
    )
    assert names(other) == ["kl:num_bin=1024"]


def test_activation_fields_of_a_subgraph_come_between() -> None:
    recipe = load(
        op_config={"Conv": {"activation": {"asymmetric": True, "num_bin": 512}}},
        subgraph_config={
            "s": {"inputs": ["conv1"], "outputs": ["conv2"], "activation": {"asymmetric": False}}
        },
        **node(activation={"calibration_type": "kl"}),
    )
    assert names(recipe) == ["kl:num_bin=512"]
    assert names(recipe, "conv2") == ["max"]
    assert names(recipe, "conv0") == ["max:asymmetric"]


@pytest.mark.parametrize("qtype", ["int8", "int16", "float16", "float32"])
def test_types_of_nodes(qtype: str) -> None:
    expected = {"int8": ("int", 8, 8), "int16": ("int", 16, 16)}.get(qtype)
    for recipe in (load({"all_node_type": qtype}), load(**node(qtype=qtype))):
        assert bits(recipe) == expected or bits(recipe)[0] == qtype


@pytest.mark.parametrize("level", ["op_config", "node_config"])
def test_dual_int16_and_int16_ec(level: str) -> None:
    name = "Conv" if level == "op_config" else "conv1"
    dual = load(**{level: {name: {"qtype": "dual-int16"}}})
    assert of_input(dual, "conv1", 0).activation_bits == 16
    assert of_input(dual, "conv1", 1).weight_bits == 16
    mixed = load(**{level: {name: {"qtype": "int16-ec"}}})
    assert of_input(mixed, "conv1", 0).activation_bits == 16
    assert of_input(mixed, "conv1", 1).weight_bits == 8
    assert of_input(mixed, "conv1", 1).compensation is True


def test_a_finer_type_takes_back_compensation() -> None:
    recipe = load(op_config={"Conv": {"qtype": "int16-ec"}}, **node(qtype="int8"))
    assert of_input(recipe, "conv1", 1).compensation is False
    assert of_input(recipe, "conv2", 1).compensation is True


def test_compensation_of_a_node_is_that_of_the_operands_that_have_a_place() -> None:
    recipe = load(**node(qtype="ec"))
    assert of_input(recipe, "conv1", 1).compensation is True
    assert of_input(recipe, "conv1", 0).compensation is False


@pytest.mark.parametrize(
    ("sections", "net", "message"),
    [
        (node(input0="ec"), "residual", "has no place for error compensation"),
        ({"node_config": {"relu1": {"qtype": "ec"}}}, "residual", "has no place for error compensation"),
        ({"node_config": {"relu1": {"qtype": "dual-int16"}}}, "residual", "for Conv or ConvTranspose or"),
        ({"node_config": {"conv_1": {"qtype": "int16"}}}, "residual", "Did you mean 'conv1'"),
        (node(input9="int16"), "residual", r"quant_config.json:\d+ node_config.conv1.input9: .*has no input 9"),
        ({"op_config": {"Conv": {"input9": "int8"}}}, "residual", "has an input 9"),
        ({"subgraph_config": {"s": {"inputs": ["gone"], "outputs": ["conv2"], "qtype": "int16"}}}, "residual",
         "names 'gone', which is no node or tensor"),
        ({"subgraph_config": {"s": {"inputs": ["conv3"], "outputs": ["conv0"], "qtype": "int16"}}}, "residual",
         "no path leads"),
        ({"subgraph_config": {"a": {"inputs": ["conv0"], "outputs": ["conv1"], "qtype": "int16"},
                              "b": {"inputs": ["conv1"], "outputs": ["conv2"], "qtype": "int8"}}}, "residual",
         "node 'conv1' is in subgraph 'b'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model(sections: dict[str, Any], net: str, message: str) -> None:
    with pytest.raises(ConfigValueError, match=message):
        settings(load(**sections), net)


def test_an_operator_that_the_model_lacks_is_noted() -> None:
    _, notes = settings(load(op_config={"Softmax": {"qtype": "int16"}}))
    assert ["no operator of type 'Softmax'" in n.message for n in notes] == [True]


def test_a_request_where_nothing_is_quantized_is_noted() -> None:
    recipe = load(node_config={"relu1": {"qtype": "int16"}})
    notes = resolve(recipe, prepared("residual")).notes
    assert [n.where for n in notes] == ["quant_config.json:9 node_config.relu1.qtype"]


# ------------------------------------------------------------------------------ methods, candidates


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"calibration_type": "max"}, ["max"]),
        ({"calibration_type": "max", "max_percentile": 0.999}, ["max-percentile:percentile=0.999"]),
        ({"calibration_type": "percentile"}, ["max-percentile:percentile=0.99995"]),
        ({"calibration_type": "percentile", "max_percentile": 0.9}, ["max-percentile:percentile=0.9"]),
        ({"calibration_type": "kl", "num_bin": 2048}, ["kl:num_bin=2048"]),
        ({"calibration_type": "min-max", "asymmetric": True}, ["min-max:asymmetric"]),
        ({"calibration_type": "min-max"}, ["max"]),
        ({"calibration_type": "mse", "per_channel": True}, ["mse:per_channel"]),
        ({"calibration_type": ["max", "max"]}, ["max"]),
        (
            {"calibration_type": ["kl", "max"], "num_bin": [512, 1024], "max_percentile": [0.9, 1.0]},
            ["max", "max-percentile:percentile=0.9", "kl:num_bin=512", "kl:num_bin=1024"],
        ),
        (
            {"calibration_type": "max", "asymmetric": [True, False], "per_channel": [True, False]},
            ["max", "max:per_channel", "max:asymmetric", "max:asymmetric,per_channel"],
        ),
        (
            {"calibration_type": "default", "asymmetric": True},
            ["max:asymmetric", "max-percentile:percentile=0.99995,asymmetric", "kl:num_bin=1024,asymmetric"],
        ),
    ],
)  # fmt: skip
def test_methods_and_lists(fields: dict[str, Any], expected: list[str]) -> None:
    assert names(activation(**fields)) == expected


def test_the_grid_of_the_acceptance_list_has_twelve() -> None:
    recipe = activation(
        calibration_type=["max", "kl"],
        max_percentile=[0.99995, 1.0],
        asymmetric=[True, False],
        per_channel=[True, False],
    )
    found = names(recipe)
    assert len(found) == len(set(found)) == 12
    assert sum(n.startswith("kl") for n in found) == 4


def test_more_than_sixty_four_are_too_many() -> None:
    with pytest.raises(
        ConfigValueError, match=r"make 68 candidates \(1 methods x 17 max_percentile x 2 asym"
    ):
        activation(
            calibration_type="max",
            max_percentile=[0.8 + i / 100 for i in range(17)],
            asymmetric=[True, False],
            per_channel=[True, False],
        )


def test_kl_options_reach_the_algorithm() -> None:
    s = settings(activation(calibration_type="kl", num_bin=512, max_num_bin=4096))[0]["conv1"]
    assert s.activation == AlgorithmChoice.of("kl-merge", {"bins": 512, "max_bins": 4096})


@pytest.mark.parametrize(
    ("fields", "bins", "most", "noted"),
    [
        ({"num_bin": 64}, 129, 16384, "num_bin is 64; 129 is the least"),
        ({"max_num_bin": 100}, 1024, 1024, "max_num_bin is 100; 1024 is the least"),
        ({"num_bin": 150, "max_num_bin": 100}, 150, 258, "max_num_bin is 100; 258 is the least"),
    ],
)
def test_too_few_bins_are_raised_and_noted(
    fields: dict[str, Any], bins: int, most: int, noted: str
) -> None:
    recipe = activation(calibration_type="kl", **fields)
    s = settings(recipe)[0]["conv1"]
    assert s.activation == AlgorithmChoice.of("kl-merge", {"bins": bins, "max_bins": most})
    assert [noted in n.message for n in recipe.notes] == [True]


def test_fields_of_another_method_are_noted() -> None:
    recipe = activation(calibration_type="max", num_bin=512, max_num_bin=1024)
    assert [n.where.split(": ")[1] for n in recipe.notes] == [
        "model_config.activation.num_bin",
        "model_config.activation.max_num_bin",
    ]
    assert not any(n.honoured for n in recipe.notes)
    assert len(activation(calibration_type="kl", max_percentile=0.9).notes) == 1


def test_load_and_skip() -> None:
    loaded = activation(calibration_type="load")
    found = settings(loaded)[0]["conv1"]
    assert (found.activation, found.candidates) == (AlgorithmChoice("from-model"), ())
    skipped = activation(calibration_type="skip")
    assert skipped.calibration.random
    assert ["not for accuracy" in n.message for n in skipped.notes] == [True]
    with pytest.raises(ConfigValueError, match="is for the whole model"):
        load(**node(activation={"calibration_type": "skip"}))


# ------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, Search(scope="model")),
        ({"modelwise_search": {"metric": "mse"}}, Search(scope="model", metric="mse")),
        ({"layerwise_search": {}}, Search(scope="layer")),
        (
            {"modelwise_search": {"metric": "mse"}, "layerwise_search": {"metric": "sqnr"}},
            Search(scope="layer", metric="sqnr"),
        ),
        (
            {"modelwise_search": {"num_sample": 8, "aggregate": "mean", "early_stop": 0.99}},
            Search(scope="model", samples=8, aggregate="mean", good_enough=0.99),
        ),
    ],
)
def test_which_search_runs(sections: dict[str, Any], expected: Search) -> None:
    recipe = load({"activation": {"calibration_type": ["max", "kl"]}, **sections})
    assert recipe.search == expected


def test_one_candidate_needs_no_search() -> None:
    recipe = load({"layerwise_search": {}})
    assert recipe.search is None
    assert ["one candidate alone" in n.message for n in recipe.notes] == [True]


def test_mix_is_a_layerwise_search_and_deprecated() -> None:
    recipe = activation(calibration_type="mix")
    assert recipe.search == Search(scope="layer")
    assert names(recipe) == ["max", "max-percentile:percentile=0.99995", "kl:num_bin=1024"]
    assert ["deprecated" in n.message for n in recipe.notes] == [True]


def test_candidates_of_a_node_alone() -> None:
    recipe = load(**node(activation={"calibration_type": ["max", "kl"]}))
    assert recipe.search == Search(scope="model")
    assert names(recipe) == ["max", "kl:num_bin=1024"]
    assert names(recipe, "conv2") == ["max"]


def test_a_node_with_one_method_leaves_the_search() -> None:
    recipe = load(
        {"activation": {"calibration_type": ["max", "kl"]}},
        **node(activation={"calibration_type": "kl"}),
    )
    assert names(recipe) == ["kl:num_bin=1024"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"topk": 3}, Promotion(count=3)),
        ({"topk": 3, "qtype": "float16", "metric": "mse"}, Promotion(count=3, precision="float16", metric="mse")),
        ({"threshold": 0.99}, Promotion(threshold=0.99)),
        ({"budget": 0.2}, Promotion(budget=0.2)),
    ],
)  # fmt: skip
def test_automatic_mixed_precision(layer: dict[str, Any], expected: Promotion) -> None:
    assert load({"search": {"layer": layer}}).promote == expected


def test_bias_correction() -> None:
    recipe = load({"weight": {"bias_correction": {"num_sample": 4, "metric": "mse"}}})
    s = settings(recipe)[0]["conv1"]
    assert recipe.bias_correction == "off"
    assert (s.bias_samples, s.bias_metric) == (4, "mse")
    of_node = load(**node(weight={"bias_correction": {}}))
    found = settings(of_node)[0]
    assert (found["conv1"].bias_samples, found["conv2"].bias_samples) == (1, None)
    assert found["conv1"].bias_metric == "cosine-similarity"


@pytest.mark.parametrize("kind", ["int8", "int16", "float16", "float32"])
def test_the_type_of_the_outputs(kind: str) -> None:
    assert load({"model_output_type": kind}).output_precision == kind


# ------------------------------------------------------------------------------ places and aliases


def test_both_places_of_a_section_give_the_same() -> None:
    inside = horizon_json.load(json.dumps({"model_config": ONE}), None)
    outside = horizon_json.load(json.dumps(ONE), None)

    def said(r: Recipe) -> list[Rule]:
        return [Rule(x.where, x.settings) for x in r.rules]

    assert said(inside) == said(outside)
    both = horizon_json.load(json.dumps({"model_config": ONE, **ONE}), None)
    assert said(both) == said(inside)
    with pytest.raises(ConfigValueError, match="the two are different"):
        horizon_json.load(
            json.dumps({"model_config": ONE, "activation": {"calibration_type": "kl"}}), None
        )


def test_a_name_around_the_model_config_is_noted() -> None:
    content = {"model_config": {"default": {"all_node_type": "int16", **ONE}}}
    recipe = horizon_json.load(json.dumps(content), None)
    assert bits(recipe) == ("int", 16, 16)
    assert ["model_config.default is read" in n.message for n in recipe.notes] == [True]


@pytest.mark.parametrize("key", ["ON", "InputType", "OutputType"])
def test_old_names_of_qtype(key: str) -> None:
    recipe = load(**node(**{key: "int16"}))
    assert bits(recipe) == ("int", 16, 16)
    assert ["is read as qtype" in n.message for n in recipe.notes] == [True]
    load(**node(**{key: "int16", "qtype": "int16"}))
    with pytest.raises(ConfigValueError, match="another key says"):
        load(**node(**{"qtype": "int8", key: "int16"}))


@pytest.mark.parametrize(
    ("text", "kind"), [("fp16", "float16"), ("fp32", "float32"), ("float", "float32")]
)
def test_old_spellings_of_types(text: str, kind: str) -> None:
    recipe = load(**node(qtype=text))
    assert bits(recipe)[0] == kind
    assert len(recipe.notes) == 1
    assert load({"all_node_type": text}).notes != ()


# ----------------------------------------------------------------------------------------- rejected


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"modle_config": {}, "op_config": {}}, ConfigValueError, "modle_config is no section"),
        ({"modle_config": {}, "op_config": {}}, ConfigValueError, "Did you mean 'model_config'"),
        ({"model_config": {"all_node_typ": "int8", "x": 1}}, ConfigValueError, "Did you mean 'all_node_type'"),
        ({"model_config": 3}, ConfigTypeError, "model_config is 3; it is a mapping"),
        ({"model_config": {"all_node_type": "int32"}}, ConfigValueError, "it is int8, int16, float16 or float32"),
        ({"model_config": {"all_node_type": "int61"}}, ConfigValueError, "Did you mean 'int16'"),
        ({"model_config": {"all_node_type": 8}}, ConfigTypeError, "all_node_type is 8; it is a text"),
        ({"model_config": {"all_node_type": ["int8"]}}, ConfigTypeError, "it is a text"),
        ({"model_config": {"all_node_type": "mxfp8"}}, UnsupportedError, "reserved, not implemented"),
        ({"op_config": {"softmax": {"qtype": "int16"}}}, ConfigValueError, "Did you mean 'Softmax'"),
        ({"op_config": {"Softmx": {"qtype": "int16"}}}, ConfigValueError, "Did you mean 'Softmax'"),
        ({"op_config": {"Relu": {"qtype": "dual-int16"}}}, ConfigValueError, "not for Relu"),
        ({"node_config": {"a": {"qtype": "int32"}}}, ConfigValueError, "node_config.a.qtype is 'int32'"),
        ({"node_config": {"a": {"qtyp": "int8"}}}, ConfigValueError, "Did you mean 'qtype'"),
        ({"node_config": {"a": {"inptu1": "int8"}}}, ConfigValueError, "Did you mean 'input"),
        ({"node_config": {"a": {"input0": "float16"}}}, ConfigValueError, "it is one of int8, int16, ec"),
        ({"node_config": {"a": {"input0": 8}}}, ConfigTypeError, "it is a text"),
        ({"node_config": {"a": "int16"}}, ConfigTypeError, "node_config.a is 'int16'; it is a mapping"),
        ({"node_config": []}, ConfigTypeError, "it is a mapping"),
        ({"node_config": {"a": {"qtype": None}}}, ConfigTypeError, "is null"),
        ({"subgraph_config": {"s": {"inputs": ["a"], "qtype": "int8"}}}, ConfigValueError, "outputs is missing"),
        ({"subgraph_config": {"s": {"inputs": [], "outputs": ["a"]}}}, ConfigValueError, "inputs"),
        ({"activation": {"calibration_type": "histogram"}}, ConfigValueError, "calibration_type is 'histogram'"),
        ({"activation": {"calibration_type": ["max", "kll"]}}, ConfigValueError, "Did you mean 'kl'"),
        ({"activation": {"calibration_type": []}}, ConfigValueError, "calibration_type"),
        ({"activation": {"calibration_type": ["max", "default"]}}, ConfigValueError, "default stands alone"),
        ({"activation": {"calibration_type": 3}}, ConfigTypeError, "it is a text"),
        ({"activation": {"num_bin": 1024.0}}, ConfigTypeError, "it is a whole number"),
        ({"activation": {"num_bin": 0}}, ConfigValueError, "it is 1 or more"),
        ({"activation": {"max_num_bin": [4096]}}, ConfigTypeError, "max_num_bin is [4096]; it is a whole number"),
        ({"activation": {"max_percentile": 0.4}}, ConfigValueError, "it lies in [0.5, 1]"),
        ({"activation": {"max_percentile": [1.0, 1.1]}}, ConfigValueError, "it lies in [0.5, 1]"),
        ({"activation": {"per_channel": 1}}, ConfigTypeError, "it is true or false"),
        ({"activation": {"asymmetric": "yes"}}, ConfigTypeError, "it is true or false"),
        ({"activation": {"percentile": 1}}, ConfigValueError, "Did you mean 'max_percentile'"),
        ({"weight": {"bias_correction": {"num_sample": 0}}}, ConfigValueError, "it is 1 or more"),
        ({"weight": {"bias_correction": {"metric": "cos"}}}, ConfigValueError, "it is cosine-similarity, mse"),
        ({"weight": {"bias_correction": True}}, ConfigTypeError, "it is a mapping"),
        ({"modelwise_search": {"metric": "msee"}}, ConfigValueError, "Did you mean 'mse'"),
        ({"layerwise_search": {"aggregate": "best"}}, ConfigValueError, "it is worst or mean"),
        ({"search": {"layer": {}}}, ConfigValueError, "one of topk, threshold and budget"),
        ({"search": {"layer": {"topk": 1, "budget": 0.5}}}, ConfigValueError, "not topk and budget"),
        ({"search": {"layer": {"topk": 0}}}, ConfigValueError, "it is 1 or more"),
        ({"search": {"layer": {"topk": 1, "qtype": "int8"}}}, ConfigValueError, "it is int16, float16"),
        ({"search": {}}, ConfigValueError, "layer is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    content: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        horizon_json.load(json.dumps(content, indent=1), FILE)
    assert message in str(e.value)
    assert str(e.value).startswith("quant_config.json")


def test_json_errors_have_line_and_column() -> None:
    with pytest.raises(ConfigValueError, match=r"quant_config.json:2:19: .*a comma before"):
        horizon_json.load('{"op_config": {\n  "Conv": {"qty":1,}}}', FILE)
    with pytest.raises(ConfigValueError, match=r"quant_config.json:1:2: .*comments"):
        horizon_json.load('{// c\n"op_config": {}}', FILE)


# ---------------------------------------------------------------------------------------- old YAML

OLD = """
model_parameters:
  onnx_model: m.onnx
  node_info: {conv2: {ON: BPU, InputType: int16}, conv3: {ON: CPU}}
calibration_parameters:
  cal_data_dir: ./a
  calibration_type: max
  max_percentile: 0.999
  per_channel: true
  optimization: set_model_output_int16,set_Relu_input_int8
  run_on_cpu: conv1;conv3
"""


def test_the_yaml_of_the_old_chain() -> None:
    recipe = load_recipe(OLD)
    found = {n: bits(recipe, n) for n in ("conv0", "conv1", "conv2", "conv3")}
    assert found["conv0"] == ("int", 8, 8)
    assert found["conv1"][0] == "float32"
    assert found["conv2"] == ("int", 16, 16)
    assert found["conv3"][0] == "float32"
    assert names(recipe, "conv0") == ["max-percentile:percentile=0.999,per_channel"]
    assert recipe.output_precision == "int16"
    assert [s.path for s in recipe.calibration.sources] == ["./a"]
    two = old("cal_data_dir: ./a;./b\ncalibration_type: max")
    assert [s.path for s in two.calibration.sources] == ["./a", "./b"]
    with pytest.raises(ConfigValueError, match="data for 2 inputs, and the model has 1"):
        settings(two)


def old(text: str) -> Recipe:
    return load_recipe("calibration_parameters:\n  " + text.replace("\n", "\n  ") + "\n")


def test_node_info_beats_run_on_cpu() -> None:
    recipe = old("run_on_cpu: conv1\nnode_info: {conv1: {InputType: int16}}")
    assert bits(recipe) == ("int", 16, 16)


def test_old_keys_one_by_one() -> None:
    assert old("calibration_type: default\nmax_percentile: 0.9").search is not None
    assert ["no effect" in n.message for n in old("per_channel: true").notes] == [True]
    assert bits(old("optimization: set_all_nodes_int16"))[1] == 16
    conv = old("optimization: set_Conv_input_int16,set_Conv_output_int16")
    assert bits(conv) == ("int", 16, 16)
    assert old("cal_data_dir: ''").calibration.random
    assert ["deprecated" in n.message for n in old("cal_data_type: float32").notes] == [True]
    assert ["deprecated" in n.message for n in old("preprocess_on: false").notes] == [True]
    assert "mix is deprecated" in old("calibration_type: mix").notes[0].message
    assert bits(old("quant_config: {model_config: {all_node_type: int16}}"))[1] == 16


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("calibration_typ: kl", ConfigValueError, "Did you mean 'calibration_type'"),
        ("optimization: set_all_node_int16", ConfigValueError, "Did you mean 'set_all_nodes_int16'"),
        ("optimization: set_Cnov_input_int8", ConfigValueError, "Did you mean 'Conv'"),
        ("optimization: 3", ConfigTypeError, "it is a text"),
        ("calibration_type: histogram", ConfigValueError, "calibration_type is 'histogram'"),
        ("node_info: {conv1: {InputTyp: int16}}", ConfigValueError, "Did you mean 'InputType'"),
        ("quant_config: file.json", ConfigValueError, "which does not exist"),
        ("calibration_type: max\nquant_config: {model_config: {activation: {calibration_type: kl}}}",
         ConfigValueError, "by an old key as well"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_yaml(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as e:
        old(text)
    assert message in str(e.value)

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.dialects.horizon import quant_config as horizon_json
from calibrant.dialects.horizon.write import effective_config
from calibrant.errors import UnsupportedError
from calibrant.recipe import Recipe
from tests.dialects._help import GOLDEN, of_input, settings
from tests.models import NETS

metrics = st.sampled_from(["cosine-similarity", "mse", "sqnr"])
flags = st.booleans() | st.just([True, False])
activations = st.one_of(
    st.fixed_dictionaries(
        {"calibration_type": st.sampled_from(["max", "percentile"])},
        optional={
            "max_percentile": st.sampled_from([0.9, [0.9, 0.99]]),
            "per_channel": flags,
            "asymmetric": flags,
        },
    ),
    st.fixed_dictionaries(
        {"calibration_type": st.sampled_from(["kl", ["max", "kl"]])},
        optional={
            "num_bin": st.sampled_from([512, [512, 1024]]),
            "max_num_bin": st.just(4096),
            "asymmetric": flags,
        },
    ),
    st.sampled_from(
        [
            {"calibration_type": "default"},
            {"calibration_type": "load"},
            {"calibration_type": "mse"},
        ]
    ),
)
of_nodes = activations.filter(lambda a: a["calibration_type"] != "load")
weights = st.fixed_dictionaries(
    {
        "bias_correction": st.fixed_dictionaries(
            {"num_sample": st.integers(1, 9), "metric": metrics}
        )
    }
)
types = st.sampled_from(["int8", "int16", "float16", "float32"])
inputs = st.sampled_from(["int8", "int16", "ec"])
searches = st.fixed_dictionaries({}, optional={"metric": metrics, "num_sample": st.integers(1, 9)})
models = st.fixed_dictionaries(
    {},
    optional={
        "all_node_type": types,
        "model_output_type": types,
        "activation": activations,
        "weight": weights,
        "modelwise_search": searches,
        "layerwise_search": searches,
        "search": st.just({"layer": {"topk": 3, "metric": "mse"}}),
    },
)
fine = {"qtype": types, "weight": weights, "input0": inputs, "input1": inputs}
configs = st.fixed_dictionaries(
    {"model_config": models},
    optional={
        "op_config": st.dictionaries(
            st.sampled_from(["Conv", "MatMul"]), st.fixed_dictionaries({}, optional=fine)
        ),
        "subgraph_config": st.fixed_dictionaries(
            {
                "head": st.fixed_dictionaries(
                    {"inputs": st.just(["a"]), "outputs": st.just(["b", "c"])}, optional=fine
                )
            }
        ),
        "node_config": st.dictionaries(
            st.sampled_from(["conv1", "/a/b", "c.0"]),
            st.fixed_dictionaries({}, optional={**fine, "activation": of_nodes}),
        ),
    },
)


def said(recipe: Recipe) -> Any:
    rules = [
        (r.where, r.settings)
        for r in recipe.rules
        if r.force != "implied" and any(r.settings.items())
    ]
    return (
        sorted(rules, key=str),
        recipe.search,
        recipe.promote,
        recipe.output_precision,
        recipe.bias_correction,
        recipe.calibration.random,
    )


@given(configs)
@effort(max_examples=80)
def test_a_configuration_survives_being_read_and_written(content: dict[str, Any]) -> None:
    recipe = horizon_json.load(json.dumps(content), None)
    again = horizon_json.load(dump_recipe(recipe, "horizon"), None)
    assert said(again) == said(recipe)


def test_the_full_schema_survives() -> None:
    recipe = load_recipe(GOLDEN / "horizon_full.json")
    assert said(load_recipe(dump_recipe(recipe, "horizon"))) == said(recipe)


EFFECTIVE = {
    "model_config": {"activation": {"calibration_type": "max", "max_percentile": 0.999}},
    "op_config": {"Conv": {"qtype": "int16"}},
    "node_config": {"conv1": {"qtype": "int8", "input1": "ec"}, "conv2": {"qtype": "float16"}},
}


def test_the_effective_configuration_lists_every_node_and_means_the_same() -> None:
    model = NETS["residual"]()[0]
    recipe = load_recipe(json.dumps(EFFECTIVE))
    text = effective_config(recipe, model)
    content = json.loads(text)
    assert list(content) == ["model_config", "node_config"]
    found = {n: e["qtype"] for n, e in content["node_config"].items()}
    assert found == {
        "conv0": "int16",
        "conv1": "int8",
        "conv2": "float16",
        "add1": "int8",
        "conv3": "int16",
        "conv4": "int16",
        "y": "int8",
    }
    assert content["node_config"]["conv1"]["input1"] == "ec"
    assert "input0" not in content["node_config"]["conv1"]
    assert content["node_config"]["conv0"]["activation"]["max_percentile"] == 0.999
    again = load_recipe(text)
    before, after = settings(recipe)[0], settings(again)[0]
    for name in found:
        if found[name] == "float16":
            assert after[name].compute == before[name].compute
            continue
        assert after[name] == before[name], name
        for index in (0, 1):
            assert of_input(again, name, index) == of_input(recipe, name, index)
    assert effective_config(again, model) == text


def test_a_native_recipe_as_a_quant_config() -> None:
    native = load_recipe(
        "calibrant: 1\nrules:\n"
        "- {where: all, precision: int8, activation: {algorithm: max, symmetric: true}}\n"
        "- {where: {op: Conv}, precision: int16}\n"
        "- {where: {layer: fc}, precision: float32}\n"
    )
    assert json.loads(dump_recipe(native, "horizon")) == {
        "model_config": {
            "all_node_type": "int8",
            "activation": {
                "calibration_type": "max",
                "max_percentile": 1.0,
                "per_channel": False,
                "asymmetric": False,
            },
        },
        "op_config": {"Conv": {"qtype": "int16"}},
        "node_config": {"fc": {"qtype": "float32"}},
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("- {where: {layer: a}, precision: int8}\n- {where: all, precision: int16}", "comes after a finer"),
        ("- {where: {layer: 'a*'}, precision: int8}", "nodes stand in it by name"),
        ("- {where: all, activation: ifmr}", "cannot say activation algorithm 'ifmr'"),
        ("- {where: all, weight: arq}", "cannot say weight algorithm 'arq'"),
        ("- {where: all, weight: {per_channel: false}}", "one weight scale a tensor"),
        ("- {where: all, precision: int4}", "one type for activations and weights"),
        ("- {where: all, balance: 0.5}", "cannot say balancing of strength 0.5"),
        ("- {where: all, activation: {symmetric: true}}", "only with a calibration_type"),
        ("- {where: {layer: a, input: 0}, precision: float16}", "cannot say float16 of one input"),
    ],
)  # fmt: skip
def test_what_a_quant_config_cannot_say_is_refused(rules: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        dump_recipe(load_recipe(f"calibrant: 1\nrules:\n{rules}\n"), "horizon")


@pytest.mark.parametrize(
    "line", ["equalize: on", "fusion: {batch_norm: false}", "calibration: {exact: true}"]
)
def test_what_it_cannot_say_of_the_model(line: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot say"):
        dump_recipe(load_recipe(f"calibrant: 1\n{line}\n"), "horizon")


@pytest.mark.parametrize("qtype", ["dual-int16", "int16-ec"])
@pytest.mark.parametrize("level", [{"op_config": "Conv"}, {"node_config": "conv1"}])
def test_types_of_both_operands_survive_with_and_without_the_model(
    level: dict[str, str], qtype: str
) -> None:
    ((section, name),) = level.items()
    recipe = load_recipe(json.dumps({section: {name: {"qtype": qtype}}}))
    written = json.loads(dump_recipe(recipe, "horizon"))
    assert written[section] == {name: {"qtype": qtype}}
    assert [r.force for r in load_recipe(json.dumps(written)).rules] == [
        r.force for r in recipe.rules
    ]
    again = load_recipe(effective_config(recipe, NETS["residual"]()[0]))
    for index in (0, 1):
        assert of_input(again, "conv1", index) == of_input(recipe, "conv1", index)


def test_what_the_recipes_target_does_not_quantize_stays_in_float_by_name() -> None:
    native = load_recipe("calibrant: 1\nrules: [{where: all, precision: int8, activation: max}]\n")
    text = effective_config(native, NETS["residual"]()[0])
    nodes = json.loads(text)["node_config"]
    assert {n for n, e in nodes.items() if e["qtype"] == "float32"} >= {"add1"}
    after = settings(load_recipe(text))[0]
    assert (after["add1"].compute, after["conv1"].compute) == ("float32", "int")

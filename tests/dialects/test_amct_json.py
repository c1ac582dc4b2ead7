from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.dialects.amct import config_json as amct_json
from calibrant.dialects.amct.write import create_config
from calibrant.errors import (
    ConfigRuntimeError,
    ConfigTypeError,
    ConfigValueError,
    UnsupportedError,
)
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, LayerInput, Recipe, Settings
from tests.dialects._help import GOLDEN, IFMR, meaning, options, prepared, settings
from tests.models import NETS


def load(*, layer: str = "conv1", top: dict[str, Any] | None = None, **said: Any) -> Recipe:
    content = {**(top or {}), layer: {"quant_enable": True, **said}}
    return amct_json.load(json.dumps(content, indent=1), Path("config.json"))


def conv1(net: str = "residual", **said: Any) -> Settings:
    return settings(load(**said), net)[0]["conv1"]


def act(**params: Any) -> dict[str, Any]:
    return {"activation_quant_params": params}


def wts(**params: Any) -> dict[str, Any]:
    return {"weight_quant_params": params}


# ---------------------------------------------------------------------------------------- samples


def test_the_printed_sample_with_ifmr() -> None:
    recipe = load_recipe(GOLDEN / "amct_ifmr.json")
    assert recipe.calibration.batch_num == 2
    assert recipe.calibration.behind == "weights"
    assert recipe.target == "layers-only"
    rules = {str(r.where): r.settings for r in recipe.rules if r.force == "required"}
    assert list(rules) == ["layer conv1", "layer fc"]
    for name, per_channel in (("layer conv1", True), ("layer fc", False)):
        assert rules[name] == Settings(
            compute="int",
            activation=AlgorithmChoice.of("ifmr", IFMR),
            activation_bits=8,
            activation_symmetric=True,
            weight=AlgorithmChoice("arq"),
            weight_bits=8,
            weight_per_channel=per_channel,
            balance=0.5,
        )


def test_the_printed_sample_with_hfmg() -> None:
    (rule,) = [r for r in load_recipe(GOLDEN / "amct_hfmg.json").rules if r.force == "required"]
    assert rule.settings.activation == AlgorithmChoice.of("hfmg", {"bins": 4096})


# --------------------------------------------------------------------------------------- defaults


def test_a_layer_that_is_left_out_stays_in_float_and_an_enabled_one_has_the_defaults() -> None:
    layers, notes = settings(load())
    assert [n for n, s in layers.items() if s.compute == "int"] == ["conv1"]
    assert layers["conv1"].activation == AlgorithmChoice.of("ifmr", IFMR)
    assert layers["conv1"].activation_bits == layers["conv1"].weight_bits == 8
    assert layers["conv1"].activation_symmetric is False
    assert layers["conv1"].weight == AlgorithmChoice("arq")
    assert layers["conv1"].weight_per_channel is True
    assert layers["conv1"].balance is None
    assert notes == []


def test_a_fully_connected_layer_is_per_tensor_without_a_word() -> None:
    layers, notes = settings(load(layer="y"), "conv_bn_relu")
    assert layers["y"].weight_per_channel is False
    assert notes == []


def test_a_layer_without_quant_enable_is_not_quantized() -> None:
    content = {"conv1": {"quant_enable": True}, "conv2": {}}
    layers = settings(amct_json.load(json.dumps(content), None))[0]
    assert (layers["conv1"].compute, layers["conv2"].compute) == ("int", "float32")


def test_the_core_is_left_as_the_vendor_has_it() -> None:
    recipe = load()
    assert (recipe.bias_correction, recipe.equalize) == ("off", "off")
    assert recipe.calibration.batch_num == 1


# --------------------------------------------------------------------------------- fields resolved


def test_asymmetric_beats_activation_offset() -> None:
    assert conv1(top={"activation_offset": False}).activation_symmetric is True
    assert conv1(top={"activation_offset": True}).activation_symmetric is False
    said = conv1(top={"activation_offset": False}, **act(asymmetric=True))
    assert said.activation_symmetric is False


@pytest.mark.parametrize(
    ("key", "value", "option", "expected"),
    [
        ("max_percentile", 0.9, "max_percentile", 0.9),
        ("max_percentile", 1, "max_percentile", 1),
        ("min_percentile", 0.95, "min_percentile", 0.95),
        ("search_range", [0.3, 1.7], "search_range", (0.3, 1.7)),
        ("search_step", 0.05, "search_step", 0.05),
        ("search_step", 0.6, "search_step", 0.6),
    ],
)
def test_ifmr_options(key: str, value: Any, option: str, expected: Any) -> None:
    found = conv1(**act(**{key: value}))
    assert found.activation is not None
    assert found.activation.name == "ifmr"
    assert options(found) == IFMR | {option: expected}


@pytest.mark.parametrize("bins", [1024, 2048, 4096, 8192])
def test_num_of_bins_means_hfmg(bins: int) -> None:
    assert conv1(**act(num_of_bins=bins)).activation == AlgorithmChoice.of("hfmg", {"bins": bins})
    assert conv1(**act(act_algo="hfmg")).activation == AlgorithmChoice.of("hfmg", {"bins": 4096})


def test_widths() -> None:
    assert conv1(**act(num_bits=16)).activation_bits == 16
    for bits in (4, 6, 7, 8):
        assert conv1(**wts(num_bits=bits)).weight_bits == bits


def test_channel_wise() -> None:
    assert conv1(**wts(channel_wise=False)).weight_per_channel is False


def test_the_balancer() -> None:
    assert conv1(dmq_balancer_param=0.2).balance == 0.2


def test_nuq_and_ada() -> None:
    said = conv1(**wts(wts_algo="nuq_quantize", num_steps=16, num_of_iteration=3))
    assert said.weight == AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 3})
    assert conv1(**wts(wts_algo="nuq_quantize")).weight == AlgorithmChoice.of(
        "nuq", {"levels": 32, "rounds": 1}
    )
    said = conv1(**wts(wts_algo="ada_quantize", num_iteration=5, beta_range=[10, 1]))
    assert said.weight is not None
    assert dict(said.weight.options)["beta_range"] == (10, 1)
    assert dict(said.weight.options)["iterations"] == 5


def test_global_keys() -> None:
    recipe = load(
        top={
            "version": 1,
            "batch_num": 3,
            "joint_quant": True,
            "do_fusion": False,
            "skip_fusion_layers": ["conv1"],
            "fakequant_precision_mode": "FORCE_FP16_QUANT",
        }
    )
    assert recipe.calibration.batch_num == 3
    assert recipe.joint is True
    assert recipe.scale_format == "float16"
    assert (recipe.fusion.batch_norm, recipe.fusion.skip) == (False, ("conv1",))


def test_an_input_for_its_own_sake() -> None:
    tensor = {"layer_name": "add1", "input_index": 1, **act(act_algo="hfmg", asymmetric=False)}
    content = {"activation_offset": True, "tensor_quantize": [tensor]}
    recipe = amct_json.load(json.dumps(content), Path("config.json"))
    rule = recipe.rules[-1]
    assert rule.where == LayerInput("add1", 1, ("MaxPool", "Add"))
    plan = resolve(recipe, prepared("residual"))
    (decision,) = plan.activations
    assert decision.users == (("add1", 1),)
    assert decision.algorithm == AlgorithmChoice.of("hfmg", {"bins": 4096})
    assert decision.spec.symmetric


def test_one_input_of_a_node_alone() -> None:
    tensors = [{"layer_name": "add1", "input_index": i} for i in (0, 1)]
    with pytest.raises(ConfigValueError, match="only one input of a node"):
        amct_json.load(json.dumps({"tensor_quantize": tensors}), None)
    wrong = {"tensor_quantize": [{"layer_name": "conv1", "input_index": 0}]}
    with pytest.raises(ConfigValueError, match=r"'conv1' is a Conv; .* MaxPool or Add alone"):
        settings(amct_json.load(json.dumps(wrong), None))


# --------------------------------------------------------------------------------------- rejected


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (act(num_bits="8"), ConfigTypeError, "num_bits is '8'; it is a whole number"),
        (act(num_bits=8.0), ConfigTypeError, "num_bits is 8.0; it is a whole number"),
        (act(num_bits=5), ConfigValueError, "num_bits is 5; it is 4, 8 or 16"),
        (act(num_bits=True), ConfigTypeError, "num_bits is true; it is a whole number"),
        (act(max_percentile=0.5), ConfigValueError, "max_percentile is 0.5; it lies in (0.5, 1]"),
        (act(max_percentile=1.1), ConfigValueError, "it lies in (0.5, 1]"),
        (act(min_percentile=0.3), ConfigValueError, "min_percentile is 0.3; it lies in (0.5, 1]"),
        (act(min_percentile="x"), ConfigTypeError, "min_percentile is 'x'; it is a number"),
        (act(search_range=[0.7]), ConfigValueError, "search_range"),
        (act(search_range=0.7), ConfigTypeError, "search_range is 0.7; it is a list"),
        (act(search_range=[1.3, 0.7]), ConfigValueError, "0 < start < end"),
        (act(search_range=[0.0, 0.7]), ConfigValueError, "0 < start < end"),
        (act(search_step=0), ConfigValueError, "search_step is 0"),
        (act(search_step=0.61), ConfigValueError, "it lies in (0, 0.6]"),
        (act(act_algo="ifrm"), ConfigValueError, "it is ifmr or hfmg. Did you mean 'ifmr'?"),
        (act(act_algo=1), ConfigTypeError, "act_algo is 1; it is a text"),
        (act(asymmetric=1), ConfigTypeError, "asymmetric is 1; it is true or false"),
        (act(num_of_bins=1000), ConfigValueError, "it is 1024, 2048, 4096 or 8192"),
        (act(num_of_bins=4096, search_step=0.1), ConfigValueError, "keys of hfmg (num_of_bins), which exclude"),
        (act(act_algo="ifmr", num_of_bins=4096), ConfigValueError, "has keys of ifmr (act_algo)"),
        (act(act_algo="hfmg", max_percentile=1.0), ConfigValueError, "of ifmr (max_percentile)"),
        (act(nun_bits=8), ConfigValueError, "Did you mean 'num_bits'"),
        (wts(num_bits=5), ConfigValueError, "num_bits is 5; it is 4, 6, 7 or 8"),
        (wts(wts_algo="arq"), ConfigValueError, "it is arq_quantize, ada_quantize or nuq_quantize"),
        (wts(channel_wise="true"), ConfigTypeError, "channel_wise is 'true'; it is true or false"),
        (wts(num_iteration=3), ConfigValueError, "num_iteration is 3; it is for ada_quantize, and wts_algo is arq_quantize"),
        (wts(num_steps=16), ConfigValueError, "num_steps is 16; it is for nuq_quantize"),
        (wts(wts_algo="nuq_quantize", num_steps=8), ConfigValueError, "num_steps is 8; it is 16 or 32"),
        (wts(wts_algo="nuq_quantize", num_of_iteration=6), ConfigValueError, "num_of_iteration is 6"),
        (wts(wts_algo="ada_quantize", num_iteration=-1), ConfigValueError, "it is 0 or more"),
        (wts(wts_algo="ada_quantize", reg_param=1.0), ConfigValueError, "it lies in (0, 1)"),
        (wts(wts_algo="ada_quantize", warm_start=0.0), ConfigValueError, "it lies in (0, 1)"),
        (wts(wts_algo="ada_quantize", beta_range=[2, 20]), ConfigValueError, "start > end > 0"),
        (wts(wts_algo="nuq_quantize", num_bits=6), ConfigValueError, "num_bits is 6; it is 8 with nuq_quantize"),
        ({"dmq_balancer_param": 0.1}, ConfigValueError, "it lies in [0.2, 0.8]"),
        ({"dmq_balancer_param": 1}, ConfigTypeError, "dmq_balancer_param is 1"),
        ({"quant_enable": 1}, ConfigTypeError, "quant_enable is 1; it is true or false"),
        ({"quant_enabel": True}, ConfigValueError, "Did you mean 'quant_enable'?"),
        ({"activation_quant_params": []}, ConfigTypeError, "it is a mapping"),
        ({"activation_quant_params": 3}, ConfigTypeError, "it is a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_layer_is_said_with_its_name_at_the_end(
    said: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        load(**said)
    assert message in str(e.value)
    assert str(e.value).startswith("config.json:")
    assert str(e.value).endswith(" in layer conv1")


@pytest.mark.parametrize(
    ("top", "error", "message"),
    [
        ({"version": 2}, ConfigValueError, "version is 2; it is 1."),
        ({"version": "1"}, ConfigTypeError, "version is '1'; it is a whole number."),
        ({"batch_num": 0}, ConfigValueError, "batch_num is 0; it is 1 or more."),
        ({"batch_num": 1.0}, ConfigTypeError, "batch_num is 1.0; it is a whole number."),
        ({"batch_num": True}, ConfigTypeError, "batch_num is true; it is a whole number."),
        ({"activation_offset": 1}, ConfigTypeError, "activation_offset is 1; it is true or false."),
        ({"joint_quant": "no"}, ConfigTypeError, "joint_quant is 'no'"),
        ({"do_fusion": None}, ConfigTypeError, "do_fusion is null; leave the key out"),
        ({"skip_fusion_layers": "a"}, ConfigTypeError, "skip_fusion_layers is 'a'; it is a list."),
        ({"skip_fusion_layers": ["a", "a"]}, ConfigValueError, "'a' stands twice"),
        ({"skip_fusion_layers": [1]}, ConfigTypeError, "skip_fusion_layers[0] is 1; it is a text."),
        ({"fakequant_precision_mode": "FP16"}, ConfigValueError, "it is DEFAULT or FORCE_FP16_QUANT"),
        ({"batch_nun": 2}, ConfigValueError, "Did you mean 'batch_num'?"),
        ({"tensor_quantize": {}}, ConfigTypeError, "tensor_quantize"),
        ({"tensor_quantize": [{"layer_name": "a"}]}, ConfigValueError, "input_index is missing"),
        ({"tensor_quantize": [{"layer_name": "a", "input_index": -1}]}, ConfigValueError, "0 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_global_key(
    top: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        load(top=top)
    assert message in str(e.value)


def test_a_key_twice_and_a_syntax_error_are_told_with_line_and_column() -> None:
    with pytest.raises(
        ConfigValueError, match=r"config.json:2:1: .*'conv1' stands here and in line 1"
    ):
        load_recipe_text('{"conv1": {"quant_enable": true},\n"conv1": {"quant_enable": true}}')
    with pytest.raises(ConfigValueError, match=r"config.json:2:18: .*a comma before"):
        load_recipe_text('{"conv1": {\n"quant_enable": 1,}}')


def load_recipe_text(text: str) -> Recipe:
    assert amct_json.recognises(text, None)
    return amct_json.load(text, Path("config.json"))


@pytest.mark.parametrize("content", [{"version": 1}, {"conv1": {"quant_enable": False}}])
def test_nothing_enabled_is_a_runtime_error(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigRuntimeError, match="nothing would be quantized") as e:
        amct_json.load(json.dumps(content), None)
    assert isinstance(e.value, RuntimeError)


@pytest.mark.parametrize(
    ("net", "layer", "said", "message"),
    [
        ("residual", "conv_1", {}, "Did you mean 'conv1'"),
        ("residual", "relu1", {}, "is a Relu, which is not quantized"),
        ("conv_bn_relu", "y", wts(channel_wise=True), "in layer y"),
        ("conv_bn_relu", "y", wts(num_bits=6), "6 and 7 bits are for Conv2d alone"),
        ("pools", "avg1", act(num_bits=16), "in layer avg1"),
        ("pools", "avg1", wts(channel_wise=True), "in layer avg1"),
        ("pools", "avg1", {"dmq_balancer_param": 0.5}, "no weight to move"),
        ("matmul_mlp", "fc2", act(num_bits=16), "without a bias"),
    ],
)
def test_what_does_not_fit_the_model_is_a_value_error(
    net: str, layer: str, said: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigValueError, match=message) as e:
        settings(load(layer=layer, **said), net)
    assert re.match(rf"config\.json:\d {layer}\.\w+|config\.json:2 '{layer}'", str(e.value))
    assert isinstance(e.value, ValueError)


# --------------------------------------------------------------------------------------- writing

numbers = st.floats(0.6, 1.0).map(lambda x: round(x, 6))
activations = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "num_bits": st.sampled_from([8, 16]),
            "max_percentile": numbers,
            "min_percentile": numbers,
            "search_range": st.just([0.5, 1.5]),
            "search_step": st.sampled_from([0.01, 0.25]),
            "act_algo": st.just("ifmr"),
            "asymmetric": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {"act_algo": st.just("hfmg"), "num_of_bins": st.sampled_from([1024, 8192])},
        optional={"num_bits": st.sampled_from([8, 16]), "asymmetric": st.booleans()},
    ),
)
weights = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "num_bits": st.sampled_from([4, 6, 7, 8]),
            "wts_algo": st.just("arq_quantize"),
            "channel_wise": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {
            "wts_algo": st.just("nuq_quantize"),
            "num_steps": st.sampled_from([16, 32]),
            "num_of_iteration": st.integers(0, 5),
        },
        optional={"channel_wise": st.booleans()},
    ),
    st.fixed_dictionaries(
        {
            "wts_algo": st.just("ada_quantize"),
            "num_iteration": st.integers(0, 100),
            "beta_range": st.just([10.0, 1.0]),
        }
    ),
)
layer_objects = st.fixed_dictionaries(
    {"quant_enable": st.booleans()},
    optional={
        "dmq_balancer_param": st.sampled_from([0.2, 0.5, 0.8]),
        "activation_quant_params": activations,
        "weight_quant_params": weights,
    },
)
configs = st.fixed_dictionaries(
    {"always": layer_objects.map(lambda o: {**o, "quant_enable": True})},
    optional={
        "batch_num": st.integers(1, 50),
        "activation_offset": st.booleans(),
        "joint_quant": st.booleans(),
        "do_fusion": st.booleans(),
        "skip_fusion_layers": st.just(["b"]),
        "fakequant_precision_mode": st.sampled_from(["DEFAULT", "FORCE_FP16_QUANT"]),
        "conv1": layer_objects,
        "layer1.0/conv": layer_objects,
        "tensor_quantize": st.just(
            [{"layer_name": "add", "input_index": 1, "activation_quant_params": {"num_bits": 8}}]
        ),
    },
)


@given(configs)
@effort(max_examples=60)
def test_a_configuration_survives_being_read_and_written(content: dict[str, Any]) -> None:
    recipe = amct_json.load(json.dumps(content), None)
    again = amct_json.load(dump_recipe(recipe, "amct"), None)

    def said(r: Recipe) -> Any:
        rules = [(x.where, x.settings) for x in r.rules if x.force == "required"]
        base = [x.settings.activation_symmetric for x in r.rules if x.force == "implied"]
        return rules, base[-1], r.calibration, r.fusion, r.joint, r.scale_format

    assert said(again) == said(recipe)


def test_a_written_configuration_has_the_vendors_form() -> None:
    text = create_config(NETS["pools"]()[0], skip_layers=["conv2"], batch_num=4)
    assert text.startswith(
        '{\n    "version":1,\n    "batch_num":4,\n    "activation_offset":true,\n    "do_fusion":true,\n'
        '    "skip_fusion_layers":[],\n    "avg1":{\n        "quant_enable":true,\n'
    )
    content = json.loads(text)
    assert list(content)[5:] == ["avg1", "conv1", "conv2", "conv3", "y"]
    assert list(content["conv1"]) == [
        "quant_enable",
        "activation_quant_params",
        "weight_quant_params",
    ]
    assert list(content["conv1"]["activation_quant_params"]) == [
        "num_bits",
        "max_percentile",
        "min_percentile",
        "search_range",
        "search_step",
        "act_algo",
        "asymmetric",
    ]
    assert list(content["conv1"]["weight_quant_params"]) == [
        "num_bits",
        "channel_wise",
        "wts_algo",
    ]
    enabled = {k: v["quant_enable"] for k, v in content.items() if isinstance(v, dict)}
    assert enabled == {"avg1": True, "conv1": True, "conv2": False, "conv3": True, "y": True}
    per_channel = {
        k: v["weight_quant_params"]["channel_wise"]
        for k, v in content.items()
        if isinstance(v, dict)
    }
    assert per_channel == {"avg1": False, "conv1": True, "conv2": True, "conv3": True, "y": False}


@pytest.mark.parametrize("net", ["residual", "pools", "conv_transpose", "matmul_mlp", "grouped"])
def test_what_is_written_for_a_model_loads_and_means_the_same(net: str) -> None:
    text = create_config(NETS[net]()[0], activation_offset=False)
    recipe = load_recipe(text)
    plan = resolve(recipe, prepared(net))
    assert {d.spec.symmetric for d in plan.activations} == {True}
    assert create_config(NETS[net]()[0], config=recipe) == text
    assert plan.notes == ()


def test_nothing_left_to_write() -> None:
    with pytest.raises(ConfigValueError, match="No layer is left to quantize"):
        create_config(NETS["gemm_mlp"]()[0], config='skip_layer_types: "Linear"\n')
    with pytest.raises(ConfigValueError, match="Did you mean"):
        create_config(NETS["residual"]()[0], skip_layers=["conv_1"])


def test_what_the_file_cannot_say_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="needs the model"):
        dump_recipe(load_recipe("batch_num: 1\n"), "amct")
    native = load_recipe(
        "calibrant: 1\nrules:\n- where: all\n  precision: float32\n"
        "- where: {layer: a}\n  precision: int8\n  activation: kl\n"
    )
    with pytest.raises(UnsupportedError, match="activation algorithm 'kl'"):
        dump_recipe(native, "amct")
    with pytest.raises(UnsupportedError, match="equalization on"):
        dump_recipe(load_recipe("calibrant: 1\nequalize: on\n"), "amct")


def test_origins_and_meaning_are_apart() -> None:
    one, other = load(), load()
    assert meaning(one) == meaning(other)
    assert one.rules[-1].origin == "config.json:2 'conv1'"

"""AMCT's config.json, field by field (docs/reference/ascend-configurations.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import (
    ConfigError,
    ConfigRuntimeError,
    ConfigTypeError,
    ConfigValueError,
)
from tests.dialects.conformance._case import IFMR, accept, refuse
from tests.dialects.conformance._zoo import LAYERS, explained, planned

Doc = dict[str, Any]


def on(**said: Any) -> Doc:
    return {"quant_enable": True, **said}


def act(**params: Any) -> Doc:
    return on(activation_quant_params=params)


def wts(**params: Any) -> Doc:
    return on(weight_quant_params=params)


def conv(layer: Doc, **top: Any) -> Doc:
    return {**top, "conv": layer}


DEFAULT = {
    "compute": "int",
    "activation": "ifmr",
    **IFMR,
    "activation_bits": 8,
    "activation_symmetric": False,
    "weight": "arq",
    "weight_bits": 8,
    "weight_per_channel": True,
    "balance": None,
    "activation_per_channel": False,
}


# ------------------------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_each_layer_that_may_be_named_has_the_defaults(layer: str) -> None:
    kind = LAYERS[layer]
    wanted = DEFAULT | {
        "weight_per_channel": kind not in ("Linear", "AvgPool2d"),
        "activation_symmetric": kind == "Conv3d",
    }
    accept({layer: on(), "conv": on()}, {layer: wanted})


def test_a_layer_that_is_left_out_or_says_nothing_of_quant_enable_stays_in_float() -> None:
    accept(
        {"conv": on(), "dw": {"weight_quant_params": {"num_bits": 6}}},
        {"conv": {"compute": "int"}, "dw": {"compute": "float32"}, "fc": {"compute": "float32"}},
    )


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (conv(on(), version=1), {}),
        (conv(on(), activation_offset=False), {"activation_symmetric": True}),
        (conv(on(), activation_offset=True), {"activation_symmetric": False}),
        (conv(act(asymmetric=False), activation_offset=True), {"activation_symmetric": True}),
        (conv(act(asymmetric=True), activation_offset=False), {"activation_symmetric": False}),
        (conv(act(num_bits=8)), {"activation_bits": 8}),
        (conv(act(num_bits=16)), {"activation_bits": 16}),
        (conv(act(act_algo="ifmr")), {"activation": "ifmr", **IFMR}),
        (conv(act(act_algo="hfmg")), {"activation": "hfmg", "bins": 4096}),
        (conv(act(num_of_bins=1024)), {"activation": "hfmg", "bins": 1024}),
        (conv(act(num_of_bins=8192, act_algo="hfmg")), {"activation": "hfmg", "bins": 8192}),
        (conv(act(max_percentile=0.500001)), {"max_percentile": 0.500001}),
        (conv(act(max_percentile=1.0)), {"max_percentile": 1.0, "min_percentile": 0.999999}),
        (conv(act(max_percentile=1)), {"max_percentile": 1.0}),
        (conv(act(min_percentile=0.9)), {"max_percentile": 0.999999, "min_percentile": 0.9}),
        (conv(act(search_range=[0.3, 1.7])), {"search_range": (0.3, 1.7), "search_step": 0.01}),
        (conv(act(search_step=0.6)), {"search_range": (0.7, 1.3), "search_step": 0.6}),
        (conv(act(search_range=[1, 2], search_step=1)), {"search_range": (1.0, 2.0)}),
        (conv(on(dmq_balancer_param=0.2)), {"balance": 0.2}),
        (conv(on(dmq_balancer_param=0.8)), {"balance": 0.8}),
        (conv(on()), {"balance": None}),
        (conv(wts(num_bits=6)), {"weight_bits": 6}),
        (conv(wts(num_bits=7)), {"weight_bits": 7}),
        (conv(wts(num_bits=8)), {"weight_bits": 8}),
        (conv(wts(channel_wise=False)), {"weight_per_channel": False}),
        (conv(wts(wts_algo="arq_quantize")), {"weight": "arq"}),
        (
            conv(wts(wts_algo="nuq_quantize")),
            {"weight": "nuq", "levels": 32, "rounds": 1, "weight_bits": 8},
        ),
        (
            conv(wts(wts_algo="nuq_quantize", num_steps=16, num_of_iteration=0)),
            {"weight": "nuq", "levels": 16, "rounds": 0},
        ),
        (
            conv(wts(wts_algo="ada_quantize")),
            {
                "weight": "ada",
                "iterations": 10000,
                "regularization": 0.01,
                "beta_range": (20.0, 2.0),
                "warm_start": 0.2,
            },
        ),
        (
            conv(
                wts(
                    wts_algo="ada_quantize",
                    num_iteration=0,
                    reg_param=0.5,
                    beta_range=[30, 3],
                    warm_start=0.1,
                )
            ),
            {"iterations": 0, "regularization": 0.5, "beta_range": (30, 3), "warm_start": 0.1},
        ),
    ],
)
def test_a_field_and_what_it_resolves_to(document: Doc, wanted: Doc) -> None:
    rest = {k: v for k, v in DEFAULT.items() if k not in ("activation", "weight", *IFMR)}
    accept(document, {"conv": rest | wanted})


def test_global_keys_of_the_whole_model() -> None:
    plain = load_recipe(conv(on()))
    assert (plain.calibration.batch_num, plain.joint, plain.scale_format) == (1, False, "float32")
    assert (plain.fusion.batch_norm, plain.fusion.skip) == (True, ())
    said = load_recipe(
        conv(
            on(),
            version=1,
            batch_num=3,
            joint_quant=True,
            do_fusion=False,
            skip_fusion_layers=["conv"],
            fakequant_precision_mode="FORCE_FP16_QUANT",
        )
    )
    assert (said.calibration.batch_num, said.joint, said.scale_format) == (3, True, "float16")
    assert (said.fusion.batch_norm, said.fusion.skip) == (False, ("conv",))
    assert load_recipe(conv(on(), fakequant_precision_mode="DEFAULT")).scale_format == "float32"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layer", ["conv", "dw"])
def test_a_fusible_layer_may_be_skipped_whether_or_not_a_normalization_follows(
    layer: str, fused: bool
) -> None:
    explained(load_recipe(conv(on(), do_fusion=fused, skip_fusion_layers=[layer])))


@pytest.mark.parametrize("layer", ["lstm_y", "gru_y"])
def test_a_recurrent_layer_may_be_named_and_what_it_misses_is_said(layer: str) -> None:
    found = explained(load_recipe({layer: on(), "conv": on()}))
    assert any(layer in n.message and not n.honoured for n in found.notes)
    assert [(d.quantized, bool(d.reason)) for d in found.layers if d.node == layer] == [
        (False, True)
    ]


def test_tensors_alone_are_enough_and_take_the_input_that_is_named() -> None:
    plan = planned(
        load_recipe(
            {
                "activation_offset": False,
                "tensor_quantize": [
                    {"layer_name": "maxp", "input_index": 0},
                    {
                        "layer_name": "add",
                        "input_index": 1,
                        "activation_quant_params": {"num_of_bins": 2048, "asymmetric": True},
                    },
                ],
            }
        )
    )
    found = {d.users: d for d in plan.activations}
    assert set(found) == {(("maxp", 0),), (("add", 1),)}
    assert (found[("maxp", 0),].algorithm.name, found[("maxp", 0),].spec.symmetric) == (
        "ifmr",
        True,
    )
    other = found[("add", 1),]
    assert (str(other.algorithm), other.spec.symmetric) == ("hfmg(bins=2048)", False)
    assert plan.weights == ()


# ------------------------------------------------------------------------------------- what is refused

T, V, R = ConfigTypeError, ConfigValueError, ConfigRuntimeError


@pytest.mark.parametrize(
    ("top", "error", "says"),
    [
        ({"version": 2}, V, "version is 2; it is 1"),
        ({"version": "1"}, T, "version is '1'; it is a whole number"),
        ({"version": True}, T, "version is true"),
        ({"batch_num": 0}, V, "batch_num is 0; it is 1 or more"),
        ({"batch_num": -3}, V, "batch_num is -3"),
        ({"batch_num": 1.0}, T, "batch_num is 1.0; it is a whole number"),
        ({"batch_num": True}, T, "batch_num is true"),
        ({"batch_num": [1]}, T, "batch_num is [1]"),
        ({"activation_offset": 1}, T, "activation_offset is 1; it is true or false"),
        ({"activation_offset": "true"}, T, "activation_offset is 'true'"),
        ({"activation_offset": None}, T, "activation_offset is null"),
        ({"joint_quant": 0}, T, "joint_quant is 0"),
        ({"do_fusion": "yes"}, T, "do_fusion is 'yes'"),
        ({"skip_fusion_layers": "conv"}, T, "skip_fusion_layers is 'conv'; it is a list"),
        ({"skip_fusion_layers": [1]}, T, "skip_fusion_layers[0] is 1; it is a text"),
        ({"skip_fusion_layers": ["conv", "conv"]}, V, "'conv' stands twice"),
        ({"skip_fusion_layers": ["cnov"]}, V, "skip_fusion_layers names 'cnov', which is not in"),
        ({"skip_fusion_layers": ["relu"]}, V, "skip_fusion_layers names 'relu', which is a Relu"),
        ({"skip_fusion_layers": ["relu"], "do_fusion": False}, V, "names 'relu', which is a Relu"),
        ({"fakequant_precision_mode": "FP16"}, V, "it is DEFAULT or FORCE_FP16_QUANT"),
        ({"fakequant_precision_mode": 1}, T, "fakequant_precision_mode is 1; it is a text"),
        ({"tensor_quantize": {}}, T, "tensor_quantize is a mapping"),
        ({"tensor_quantize": [3]}, T, "tensor_quantize[0] is 3"),
        ({"batch_nums": 1}, V, "Did you mean 'batch_num'?"),
    ],
)
def test_a_global_key_is_refused(top: Doc, error: type[ConfigError], says: str) -> None:
    refuse(conv(on(), **top), error, says)


@pytest.mark.parametrize(
    ("tensor", "error", "says"),
    [
        ({"layer_name": "maxp"}, V, "tensor_quantize[0].input_index is missing"),
        ({"input_index": 0}, V, "tensor_quantize[0].layer_name is missing"),
        ({"layer_name": "maxp", "input_index": "0"}, T, "input_index is '0'"),
        ({"layer_name": "maxp", "input_index": -1}, V, "input_index is -1"),
        ({"layer_name": "maxp", "input_index": 3}, V, "'maxp' has no input 3"),
        ({"layer_name": "relu", "input_index": 0}, V, "'relu' is a Relu"),
        ({"layer_name": "conv", "input_index": 0}, V, "MaxPool or Add alone"),
        ({"layer_name": "mxp", "input_index": 0}, V, "Did you mean 'maxp'?"),
        ({"layer_name": "maxp", "input_index": 0, "algo": "ifmr"}, V, "algo is not known"),
        (
            {"layer_name": "maxp", "input_index": 0, "activation_quant_params": {"num_bits": 7}},
            V,
            "num_bits is 7",
        ),
    ],
)
def test_a_tensor_is_refused(tensor: Doc, error: type[ConfigError], says: str) -> None:
    refuse({"tensor_quantize": [tensor]}, error, says)


def test_one_input_of_an_addition_alone() -> None:
    both = [{"layer_name": "add", "input_index": i} for i in (0, 1)]
    refuse({"tensor_quantize": both}, V, "asks for input 1 after input 0")


@pytest.mark.parametrize(
    ("layer", "error", "says"),
    [
        ({"quant_enable": 1}, T, "conv.quant_enable is 1; it is true or false"),
        (on(algo="x"), V, "conv.algo is not known"),
        (on(dmq_balancer_param=0.19), V, "dmq_balancer_param is 0.19; it lies in [0.2, 0.8]"),
        (on(dmq_balancer_param=0.81), V, "dmq_balancer_param is 0.81"),
        (on(dmq_balancer_param=1), T, "dmq_balancer_param is 1"),
        (on(dmq_balancer_param="0.5"), T, "dmq_balancer_param is '0.5'"),
        (on(activation_quant_params=[]), T, "activation_quant_params is []; it is a mapping"),
        (on(weight_quant_params="arq"), T, "weight_quant_params is 'arq'"),
        (act(num_bits=7), V, "num_bits is 7; it is 4, 8 or 16"),
        (act(num_bits=8.0), T, "num_bits is 8.0"),
        (act(num_bits="8"), T, "num_bits is '8'"),
        (act(act_algo="ifrm"), V, "Did you mean 'ifmr'?"),
        (act(act_algo=1), T, "act_algo is 1; it is a text"),
        (act(asymmetric="no"), T, "asymmetric is 'no'"),
        (act(max_percentile=0.5), V, "max_percentile is 0.5; it lies in (0.5, 1]"),
        (act(max_percentile=1.01), V, "max_percentile is 1.01"),
        (act(min_percentile=0.1), V, "min_percentile is 0.1"),
        (act(min_percentile="1"), T, "min_percentile is '1'; it is a number"),
        (act(search_range=[0.7]), V, "search_range is [0.7]; it has at least 2 elements"),
        (act(search_range=[0.7, 1.0, 1.3]), V, "it has at most 2 elements"),
        (act(search_range=0.7), T, "search_range is 0.7; it is a list"),
        (act(search_range=["a", 1.3]), T, "search_range[0] is 'a'"),
        (
            act(search_range=[1.3, 0.7]),
            V,
            "search_range is [1.3, 0.7]; it is [start, end] with 0 <",
        ),
        (act(search_range=[0.0, 1.3]), V, "search_range is [0.0, 1.3]"),
        (act(search_range=[1.0, 1.0]), V, "search_range is [1.0, 1.0]"),
        (act(search_step=0), V, "search_step is 0"),
        (act(search_step=-0.1), V, "search_step is -0.1; it lies in (0, 0.6]"),
        (act(search_step=0.61), V, "search_step is 0.61; it lies in (0, 0.6]"),
        (act(search_range=[1.0, 1.005]), V, "search_step is 0.01; it lies in (0, 0.005]"),
        (act(num_of_bins=1000), V, "num_of_bins is 1000; it is 1024, 2048, 4096 or 8192"),
        (act(num_of_bins=4096.0), T, "num_of_bins is 4096.0"),
        (act(num_of_bins=4096, max_percentile=0.9), V, "keys of ifmr (max_percentile)"),
        (
            act(act_algo="ifmr", num_of_bins=4096),
            V,
            "keys of ifmr (act_algo) and keys of hfmg (num_of",
        ),
        (act(act_algo="hfmg", search_step=0.02), V, "keys of hfmg (act_algo)"),
        (act(bits=8), V, "activation_quant_params.bits is not known"),
        (wts(num_bits=5), V, "weight_quant_params.num_bits is 5"),
        (wts(num_bits=16), V, "weight_quant_params.num_bits is 16"),
        (wts(num_bits="7"), T, "num_bits is '7'"),
        (wts(wts_algo="arq"), V, "it is arq_quantize, ada_quantize or nuq_quantize"),
        (wts(channel_wise=1), T, "channel_wise is 1"),
        (wts(num_iteration=5), V, "num_iteration is 5; it is for ada_quantize"),
        (
            wts(wts_algo="arq_quantize", reg_param=0.1),
            V,
            "reg_param is 0.1; it is for ada_quantize",
        ),
        (wts(wts_algo="arq_quantize", beta_range=[20, 2]), V, "beta_range"),
        (wts(wts_algo="arq_quantize", warm_start=0.2), V, "warm_start"),
        (wts(num_steps=16), V, "num_steps is 16; it is for nuq_quantize"),
        (wts(wts_algo="nuq_quantize", num_steps=24), V, "num_steps is 24; it is 16 or 32"),
        (wts(wts_algo="nuq_quantize", num_of_iteration=6), V, "num_of_iteration is 6"),
        (wts(wts_algo="nuq_quantize", num_of_iteration=-1), V, "num_of_iteration is -1"),
        (wts(wts_algo="nuq_quantize", num_bits=6), V, "num_bits is 6; it is 8 with nuq_quantize"),
        (wts(wts_algo="ada_quantize", num_iteration=-1), V, "num_iteration is -1"),
        (wts(wts_algo="ada_quantize", num_iteration=1.5), T, "num_iteration is 1.5"),
        (wts(wts_algo="ada_quantize", reg_param=1.0), V, "reg_param is 1.0; it lies in (0, 1)"),
        (wts(wts_algo="ada_quantize", beta_range=[2, 20]), V, "start > end > 0"),
        (wts(wts_algo="ada_quantize", beta_range=[20]), V, "beta_range is [20]"),
        (wts(wts_algo="ada_quantize", warm_start=0.0), V, "warm_start is 0.0"),
    ],
)
def test_a_layers_parameter_is_refused_with_its_place_and_its_layer(
    layer: Doc, error: type[ConfigError], says: str
) -> None:
    refuse(conv(layer), error, says)
    with pytest.raises(error, match=r"^the configuration:\d+: .* in layer conv$"):
        load_recipe(json.dumps(conv(layer), indent=1))


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [
        ("fc", wts(channel_wise=True), "fc.weight_quant_params.channel_wise"),
        ("mm", wts(channel_wise=True), "in layer mm"),
        ("pool", wts(channel_wise=True), "in layer pool"),
        ("up", wts(num_bits=6), "up.weight_quant_params.num_bits"),
        ("seq", wts(num_bits=7), "6 and 7 bits are for Conv2d alone"),
        ("fc", wts(num_bits=6), "in layer fc"),
        ("lstm_y", wts(num_bits=6), "in layer lstm_y"),
        ("pool", act(num_bits=16), "pool.activation_quant_params.num_bits"),
        ("vol", act(num_bits=16), "in layer vol"),
        ("fc_bare", act(num_bits=16), "without a bias"),
        ("vol", act(asymmetric=True), "vol.activation_quant_params.asymmetric"),
        ("pool", on(dmq_balancer_param=0.5), "pool.dmq_balancer_param"),
        ("lstm_y", on(dmq_balancer_param=0.5), "lstm_y.dmq_balancer_param"),
        ("dw", wts(wts_algo="nuq_quantize"), "it has 8 groups"),
        ("grouped", wts(wts_algo="nuq_quantize"), "it has 2 groups"),
        ("dilated", wts(wts_algo="nuq_quantize"), "dilated by 2"),
        ("up", wts(wts_algo="nuq_quantize"), "up.weight_quant_params.wts_algo"),
        ("vol", wts(wts_algo="nuq_quantize"), "5 dimensions"),
        ("seq", wts(wts_algo="ada_quantize"), "rounding is learned for Conv2d"),
        ("pool", wts(wts_algo="ada_quantize"), "rounding is learned for Conv2d"),
        ("relu", on(), "'relu' is a Relu, which is not quantized"),
        ("relu", {"quant_enable": False}, "'relu' is a Relu, which is not quantized"),
        ("gpool", on(), "'gpool' is a GlobalAveragePool"),
        ("cnov", on(), "Did you mean 'conv'?"),
        ("logits", on(), "its input is transposed"),
        ("big", on(), "its second input is no constant weight"),
        ("vol_end", on(), "its filter is dilated in depth"),
        ("share1", on(), "its weight belongs to another layer too"),
    ],
)
def test_what_does_not_fit_a_layer_is_refused(name: str, layer: Doc, says: str) -> None:
    refuse({"conv": on(), name: layer}, V, says)


@pytest.mark.parametrize("layer", ["mm", "fc", "up", "seq", "lstm_y"])
def test_16_bits_where_they_fit(layer: str) -> None:
    accept({layer: act(num_bits=16), "conv": on()}, {layer: {"activation_bits": 16}})


def test_what_does_not_fit_a_layer_that_is_off_is_no_matter() -> None:
    off = {**act(asymmetric=True), "quant_enable": False}
    accept({"conv": on(), "vol": off}, {"vol": {"compute": "float32"}})


@pytest.mark.parametrize(
    "document",
    [
        {"version": 1},
        {"batch_num": 2, "tensor_quantize": []},
        conv({"quant_enable": False}),
        conv({"dmq_balancer_param": 0.5}),
    ],
)
def test_a_file_that_quantizes_nothing(document: Doc) -> None:
    refuse(document, R, "nothing would be quantized")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"conv": {"quant_enable": true},\n "conv": {}}',
            ":2:2: this is not valid JSON: 'conv' stands",
        ),
        ('{"conv": {"quant_enable": true,\n  "quant_enable": true}}', ":2:3: this is not"),
        ('{"conv": {"activation_quant_params": {"num_bits": 8,\n"num_bits": 8}}}', ":2:1: this"),
        ('{"conv": {"quant_enable": true}, // no\n}', ":1:34: this is not valid JSON: comments"),
        ('{"conv": {"quant_enable": true,}\n}', ":1:31: this is not valid JSON: a comma before"),
        ('{"conv": {"quant_enable": True}\n}', ":1:27: this is not valid JSON: a value"),
        ("{'conv': {\"quant_enable\": true}\n}", ":1:2: this is not valid JSON: a key in double"),
        (
            '{"conv": {"quant_enable": true}\n',
            ":2:1: this is not valid JSON: ',' or '}' is expected",
        ),
    ],
)
def test_what_is_no_json_is_told_with_line_and_column(text: str, says: str) -> None:
    with pytest.raises(ConfigValueError) as raised:
        load_recipe(text)
    assert says in str(raised.value)

"""AMCT's configurations for training, field by field (docs/reference/ascend-configurations.md)."""

from __future__ import annotations

from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError
from tests.dialects.conformance._case import accept, refuse
from tests.dialects.conformance._zoo import LAYERS, explained

T, V = ConfigTypeError, ConfigValueError
Doc = dict[str, Any]

DEFAULT = {
    "compute": "int",
    "activation": "ulq",
    "clip_max": None,
    "fixed_min": None,
    "activation_bits": 8,
    "activation_symmetric": False,
    "weight": "arq",
    "weight_bits": 8,
    "weight_per_channel": True,
}
TRAINED = sorted(n for n, kind in LAYERS.items() if kind != "AvgPool2d")


def data(**said: Any) -> Doc:
    return {"retrain_enable": True, "retrain_data_config": said}


def weight(**said: Any) -> Doc:
    return {"retrain_enable": True, "retrain_weight_config": said}


def both(activation: str, weights: str) -> Doc:
    return {**data(dst_type=activation), **weight(dst_type=weights)}


def blocks(act: str = "", wts: str = "", algo: str = "arq_retrain") -> str:
    return (
        f"retrain_data_quant_config: {{ ulq_quantize: {{ {act} }} }}\n"
        f"retrain_weight_quant_config: {{ {algo}: {{ {wts} }} }}\n"
    )


@pytest.mark.parametrize("layer", TRAINED)
def test_each_layer_that_may_be_named_has_the_defaults(layer: str) -> None:
    wanted = DEFAULT | {"weight_per_channel": LAYERS[layer] != "Linear"}
    accept({"conv": {"retrain_enable": True}, layer: {"retrain_enable": True}}, {layer: wanted})
    accept(blocks(), {layer: wanted})


@pytest.mark.parametrize(
    ("said", "block", "wanted"),
    [
        (data(algo="ulq_quantize"), ("", ""), {}),
        (data(clip_max=3.0, clip_min=-2.0), ("clip_max_min { clip_max: 3 clip_min: -2 }", ""),
         {"clip_max": 3.0, "clip_min": -2.0}),
        (data(clip_max=3, clip_min=-2), ("clip_max_min { clip_max: 3.0 clip_min: -2.0 }", ""),
         {"clip_max": 3.0, "clip_min": -2.0}),
        (data(fixed_min=True), ("fixed_min: true", ""), {"fixed_min": True}),
        (data(fixed_min=False), ("fixed_min: false", ""), {"fixed_min": False}),
        (data(dst_type="INT16"), ("dst_type: INT16", ""), {"activation_bits": 16}),
        (both("INT4", "INT4"), ("dst_type: INT4", "dst_type: INT4"), {"activation_bits": 4, "weight_bits": 4}),
        (weight(dst_type="INT4"), ("", "dst_type: INT4"), {"activation_bits": 8, "weight_bits": 4}),
        (weight(algo="arq_retrain"), ("", ""), {"weight": "arq"}),
        (weight(channel_wise=False), ("", "channel_wise: false"), {"weight_per_channel": False}),
    ],
)  # fmt: skip
def test_a_field_and_what_it_resolves_to_in_both_forms(
    said: Doc, block: tuple[str, str], wanted: Doc
) -> None:
    accept({"conv": said}, {"conv": DEFAULT | wanted})
    accept(blocks(*block), {"conv": DEFAULT | wanted})


def test_scales_of_weights_that_are_learned() -> None:
    accept({"conv": weight(algo="ulq_retrain")}, {"conv": DEFAULT | {"weight": "ulq"}})
    accept(blocks(algo="ulq_retrain"), {"conv": DEFAULT | {"weight": "ulq"}})


def test_4_bits_give_way_for_groups_and_odd_inputs() -> None:
    for source in ({"grouped": weight(dst_type="INT4")}, blocks("", "dst_type: INT4")):
        accept(source, {"grouped": {"weight_bits": 8}})
        notes = explained(load_recipe(source)).notes
        assert any("'grouped'" in n.message and "4 bits" in n.message for n in notes)


def test_a_dense_layer_and_scales_by_channel() -> None:
    refuse({"fc": weight(channel_wise=True)}, V, "in layer fc")
    accept(blocks("", "channel_wise: true"), {"fc": {"weight_per_channel": False}})
    own = 'override_layer_configs { layer_name: "fc" retrain_weight_quant_config { arq_retrain { channel_wise: true } } }'
    refuse(blocks() + own, V, "in layer fc")


def test_global_keys() -> None:
    content = {"version": 1, "batch_num": 3, "fakequant_precision_mode": "FORCE_FP16_QUANT"}
    for source in (
        {**content, "conv": {"retrain_enable": True}},
        "batch_num: 3 fakequant_precision_mode: FORCE_FP16_QUANT\n" + blocks(),
    ):
        recipe = load_recipe(source)
        assert (recipe.calibration.batch_num, recipe.scale_format) == (3, "float16")
        assert recipe.training
    assert load_recipe({"conv": {"retrain_enable": True}}).calibration.batch_num == 1


def test_an_own_block_beats_skipping_and_replaces_the_global_one_whole() -> None:
    text = (
        blocks("fixed_min: true", "channel_wise: false")
        + 'skip_layers: "conv" skip_layers: "dw" quant_skip_layers: "point"\n'
        + 'skip_layer_types: "Linear" quant_skip_types: "Conv1d"\n'
        + 'override_layer_configs { layer_name: "conv" retrain_weight_quant_config { ulq_retrain { } } }\n'
    )
    floats = {n: {"compute": "float32"} for n in ("dw", "point", "fc", "mm", "seq")}
    own = {"compute": "int", "fixed_min": None, "weight": "ulq", "weight_per_channel": True}
    accept(text, {**floats, "conv": own, "vol": {"fixed_min": True, "weight_per_channel": False}})


def test_a_name_that_is_skipped_twice_is_a_remark() -> None:
    notes = explained(load_recipe(blocks() + 'skip_layers: "conv" skip_layers: "conv"\n')).notes
    assert [n.honoured for n in notes if "already" in n.message] == [True]


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ({"version": 2, "conv": data()}, V, "version is 2"),
        ({"version": "1", "conv": data()}, T, "version is '1'"),
        ({"batch_num": 0, "conv": data()}, V, "batch_num is 0"),
        ({"batch_num": True, "conv": data()}, T, "batch_num is true"),
        ({"batch_nums": 1, "conv": data()}, V, "Did you mean 'batch_num'?"),
        ({"conv": {"retrain_enable": 1}}, T, "retrain_enable is 1"),
        ({"conv": {"retrain_enable": True, "algo": 1}}, V, "conv.algo is not known"),
        ({"conv": data(algo="ulq")}, V, "algo is 'ulq'; it is ulq_quantize"),
        ({"conv": data(clip_max=3.0)}, V, "clip_max is 3.0; it is given with clip_min"),
        ({"conv": data(clip_min=-3.0)}, V, "clip_min is -3.0; it is given with clip_max"),
        ({"conv": data(clip_max=0.0, clip_min=-1.0)}, V, "clip_max is 0.0; it is above 0"),
        ({"conv": data(clip_max=1.0, clip_min=0.0)}, V, "clip_min is 0.0; it is below 0"),
        ({"conv": data(clip_max="3", clip_min=-1.0)}, T, "clip_max is '3'; it is a number"),
        ({"conv": data(fixed_min=1)}, T, "fixed_min is 1"),
        ({"conv": data(dst_type="INT2")}, V, "dst_type is 'INT2'; it is INT4, INT8 or INT16"),
        ({"conv": data(dst_type="INT4")}, V, "INT4 and weights in INT8 do not go together"),
        ({"conv": both("INT16", "INT4")}, V, "do not go together"),
        ({"conv": weight(algo="arq")}, V, "it is arq_retrain or ulq_retrain"),
        ({"conv": weight(dst_type="INT16")}, V, "dst_type is 'INT16'; it is INT4 or INT8"),
        ({"conv": weight(channel_wise="no")}, T, "channel_wise is 'no'"),
        ({"conv": weight(bits=8)}, V, "retrain_weight_config.bits is not known"),
        ({"cnov": data()}, V, "Did you mean 'conv'?"),
        ({"relu": data()}, V, "'relu' is a Relu, which is not quantized"),
        ({"pool": data()}, V, "training does not quantize it"),
        ({"logits": data()}, V, "its input is transposed"),
        ({"conv": {"retrain_enable": False}}, V, "No layer retrain enabled"),
    ],
)
def test_config_json_is_refused(document: Doc, error: type[ConfigError], says: str) -> None:
    refuse(document, error, says)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (blocks("clip_max_min { clip_max: 3 }"), V, "clip_min is missing"),
        (blocks("clip_max_min { clip_max: -3 clip_min: -4 }"), V, "clip_max is -3.0; it is above 0"),
        (blocks("dst_type: INT2"), V, "it is one of INT4, INT8, INT16"),
        (blocks("dst_type: INT4"), V, "do not go together"),
        (blocks("", "dst_type: INT16"), V, "INT16"),
        (blocks("", "channel_wise: 5"), T, "channel_wise is 5"),
        (blocks() + "batch_num: 0", V, "batch_num is 0"),
        (blocks() + 'skip_layers: "cnov"', V, "Did you mean 'conv'?"),
        (blocks() + 'skip_layers: "relu"', V, "'relu' is a Relu"),
        (blocks() + 'skip_layer_types: "Gelu"', V, "type 'Gelu' is not quantized"),
        (blocks() + 'override_layer_configs { layer_name: "conv" }\n' * 2, V, "has a block already"),
        (blocks() + "override_layer_configs { }", V, "layer_name is missing"),
        (blocks() + 'override_layer_types { layer_type: "Conv2d" retrain_data_quant_config { ulq_quantize { '
         "dst_type: INT4 } } }", V, "do not go together"),
        (blocks() + "prune_config { filter_pruner { balanced_l2_norm_filter_prune { prune_ratio: 1.5 } } }", V,
         "prune_ratio is 1.5; it lies in (0, 1)"),
        (blocks() + "".join(f'skip_layer_types: "{LAYERS[n]}"\n' for n in ("conv", "seq", "vol", "up", "seq_end",
         "fc", "lstm_y", "gru_y")), V, "Nothing is left to quantize"),
    ],
)  # fmt: skip
def test_the_simplified_form_is_refused(text: str, error: type[ConfigError], says: str) -> None:
    refuse(text, error, says)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.dialects.amct import retrain_cfg as amct_retrain_cfg
from calibrant.dialects.amct import retrain_json as amct_retrain
from calibrant.dialects.amct.retrain_write import create_retrain_config
from calibrant.errors import ConfigTypeError, ConfigValueError, UnsupportedError
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, Layer, OpType, Recipe, Settings
from tests.dialects._help import GOLDEN, meaning, prepared, settings
from tests.models import NETS

JSON, CFG = Path("config.json"), Path("retrain.cfg")
ULQ, ARQ = AlgorithmChoice("ulq"), AlgorithmChoice("arq")


def load(top: dict[str, Any] | None = None, **layer: Any) -> Recipe:
    return amct_retrain.load(
        json.dumps({**(top or {}), "conv1": {"retrain_enable": True, **layer}}), JSON
    )


def conv1(**layer: Any) -> Settings:
    return settings(load(**layer))[0]["conv1"]


def cfg(text: str) -> Recipe:
    return amct_retrain_cfg.load(text, CFG)


def data(**said: Any) -> dict[str, Any]:
    return {"retrain_data_config": said}


def weight(**said: Any) -> dict[str, Any]:
    return {"retrain_weight_config": said}


# --------------------------------------------------------------------------------------- config.json


def test_the_printed_sample() -> None:
    recipe = load_recipe(GOLDEN / "amct_retrain.json")
    assert recipe.training
    assert recipe.calibration.batch_num == 1
    names = [str(r.where) for r in recipe.rules if r.force == "required"]
    assert names == ["layer conv1", "layer conv2_1/expand"]
    assert recipe.rules[-1].settings == Settings(
        compute="int",
        activation=ULQ,
        activation_bits=8,
        weight=ARQ,
        weight_bits=8,
        weight_per_channel=True,
    )


def test_the_printed_sample_with_clips() -> None:
    recipe = load_recipe(GOLDEN / "amct_retrain_clips.json")
    clips = {"clip_max": 3.0, "clip_min": -3.0}
    assert recipe.rules[-1].settings.activation == AlgorithmChoice.of("ulq", clips)
    assert recipe.rules[-1].where == Layer("inference/Conv2D_1")


def test_defaults() -> None:
    found = conv1()
    assert (found.activation, found.weight) == (ULQ, ARQ)
    assert (found.activation_bits, found.weight_bits) == (8, 8)
    assert (found.activation_symmetric, found.weight_per_channel) == (False, True)
    layers = settings(load())[0]
    assert [n for n, s in layers.items() if s.compute == "int"] == ["conv1"]


def test_fields() -> None:
    fixed = conv1(**data(clip_max=3, clip_min=-1, fixed_min=True, dst_type="INT16"))
    assert fixed.activation == AlgorithmChoice.of(
        "ulq", {"clip_max": 3.0, "clip_min": -1.0, "fixed_min": True}
    )
    assert fixed.activation_bits == 16
    assert conv1(**weight(algo="ulq_retrain", channel_wise=False)).weight == AlgorithmChoice("ulq")
    assert conv1(**weight(channel_wise=False)).weight_per_channel is False
    narrow = conv1(**data(dst_type="INT4"), **weight(dst_type="INT4"))
    assert (narrow.activation_bits, narrow.weight_bits) == (4, 4)
    assert conv1(**weight(dst_type="INT4")).weight_bits == 4
    recipe = load({"version": 1, "batch_num": 5, "fakequant_precision_mode": "FORCE_FP16_QUANT"})
    assert (recipe.calibration.batch_num, recipe.scale_format) == (5, "float16")


def test_training_itself_is_refused_until_it_is_there() -> None:
    with pytest.raises(UnsupportedError, match="'calibrant quantize' does not train"):
        resolve(load(), prepared("residual"))


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (data(algo="ulq"), ConfigValueError, "algo is 'ulq'; it is ulq_quantize"),
        (data(clip_max=3.0), ConfigValueError, "clip_max is 3.0; it is given with clip_min, or not at all"),
        (data(clip_max=-3.0, clip_min=-4.0), ConfigValueError, "clip_max is -3.0; it is above 0"),
        (data(clip_max=3.0, clip_min=0.0), ConfigValueError, "clip_min is 0.0; it is below 0"),
        (data(clip_max="3", clip_min=-1.0), ConfigTypeError, "clip_max is '3'; it is a number"),
        (data(fixed_min=1), ConfigTypeError, "fixed_min is 1; it is true or false"),
        (data(dst_type="INT2"), ConfigValueError, "it is INT4, INT8 or INT16"),
        (data(dst_typ="INT8"), ConfigValueError, "Did you mean 'dst_type'"),
        (weight(algo="arq"), ConfigValueError, "it is arq_retrain or ulq_retrain"),
        (weight(dst_type="INT16"), ConfigValueError, "it is INT4 or INT8"),
        (weight(channel_wise=0), ConfigTypeError, "it is true or false"),
        (data(dst_type="INT4"), ConfigValueError, "INT4 and weights in INT8 do not go together"),
        ({"retrain_enable": "yes"}, ConfigTypeError, "retrain_enable is 'yes'"),
        ({"retrain_enabel": True}, ConfigValueError, "Did you mean 'retrain_enable'"),
        ({"retrain_data_config": 1}, ConfigTypeError, "it is a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_layer(
    said: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        load(**said)
    assert message in str(e.value)
    assert str(e.value).startswith("config.json")
    assert str(e.value).endswith(" in layer conv1")


@pytest.mark.parametrize(
    ("top", "error"),
    [
        ({"version": 2}, ConfigValueError),
        ({"version": 1.0}, ConfigTypeError),
        ({"batch_num": 0}, ConfigValueError),
        ({"batch_num": True}, ConfigTypeError),
        ({"batch_nun": 1}, ConfigValueError),
        ({"fakequant_precision_mode": "x"}, ConfigValueError),
    ],
)
def test_what_is_wrong_in_a_global_key(top: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        load(top)


def test_no_layer_enabled_is_a_value_error() -> None:
    with pytest.raises(ConfigValueError, match="No layer retrain enabled"):
        amct_retrain.load('{"conv1": {"retrain_enable": false}}', JSON)


@pytest.mark.parametrize(
    ("net", "layer", "said", "message"),
    [
        ("residual", "conv_1", {}, "Did you mean 'conv1'"),
        ("residual", "relu1", {}, "is a Relu"),
        ("pools", "avg1", {}, "training does not quantize it"),
        ("conv_bn_relu", "y", weight(channel_wise=True), "one scale for the whole weight"),
    ],
)
def test_what_does_not_fit_the_model(
    net: str, layer: str, said: dict[str, Any], message: str
) -> None:
    recipe = amct_retrain.load(json.dumps({layer: {"retrain_enable": True, **said}}), JSON)
    with pytest.raises(ConfigValueError, match=message):
        settings(recipe, net)


def test_four_bits_give_way_where_groups_or_channels_are_odd() -> None:
    text = json.dumps({"conv1": weight(dst_type="INT4"), "conv2": weight(dst_type="INT4")})
    found, notes = settings(amct_retrain.load(text, JSON), "grouped")
    assert (found["conv1"].weight_bits, found["conv2"].weight_bits) == (8, 8)
    assert len(notes) == 2
    assert all("one group and an even number" in n.message for n in notes)


def test_pruning_is_noted() -> None:
    recipe = load(regular_prune_enable=True, regular_prune_config={"prune_type": "filter"})
    assert [n.message for n in recipe.notes] == [
        "Pruning is not done: weights are quantized as they are."
    ]
    assert load(regular_prune_enable=False).notes == ()


# -------------------------------------------------------------------------------------- retrain.cfg

GLOBAL = """
batch_num: 2
retrain_data_quant_config: { ulq_quantize: { clip_max_min: { clip_max: 6.0 clip_min: -6.0 } fixed_min: true } }
retrain_weight_quant_config: { arq_retrain: { channel_wise: true } }
"""


def test_the_global_block_holds_for_all() -> None:
    recipe = cfg(GLOBAL)
    found, notes = settings(recipe, "conv_bn_relu")
    clips = {"clip_max": 6.0, "clip_min": -6.0, "fixed_min": True}
    assert found["conv1"].activation == AlgorithmChoice.of("ulq", clips)
    assert recipe.calibration.batch_num == 2
    assert found["y"].weight_per_channel is False
    assert ["layer 'y'" in n.message for n in notes] == [True]
    assert settings(recipe, "pools")[0]["avg1"].compute == "float32"


def test_a_block_beats_the_global_one_and_is_not_merged() -> None:
    recipe = cfg(
        GLOBAL
        + 'override_layer_types { layer_type: "Conv2d" retrain_weight_quant_config { ulq_retrain { } } }'
        'override_layer_configs { layer_name: "conv1" '
        "retrain_data_quant_config { ulq_quantize { dst_type: INT16 } } }"
    )
    found = settings(recipe)[0]
    assert (found["conv2"].weight, found["conv2"].activation) == (AlgorithmChoice("ulq"), ULQ)
    assert (found["conv1"].weight, found["conv1"].activation_bits) == (ARQ, 16)


def test_a_block_beats_skipping() -> None:
    recipe = cfg(
        GLOBAL + 'skip_layers: "conv1" quant_skip_layers: "conv2" skip_layer_types: "Linear" '
        'override_layer_configs { layer_name: "conv1" }'
    )
    found = settings(recipe, "conv_bn_relu")[0]
    computed = {n: found[n].compute for n in ("conv1", "conv2", "conv3", "y")}
    assert computed == {"conv1": "int", "conv2": "float32", "conv3": "int", "y": "float32"}


def test_a_name_skipped_twice_is_noted_and_a_block_twice_is_an_error() -> None:
    recipe = cfg(GLOBAL + 'skip_layers: "a" quant_skip_layers: "a"')
    assert ["skips it already" in n.message for n in recipe.notes] == [True]
    with pytest.raises(ConfigValueError, match="has a block already"):
        cfg(
            GLOBAL
            + 'override_layer_configs { layer_name: "a" } override_layer_configs { layer_name: "a" }'
        )


def test_an_override_of_a_fully_connected_layer_is_an_error() -> None:
    block = "retrain_weight_quant_config { arq_retrain { channel_wise: true } }"
    recipe = cfg(GLOBAL + f'override_layer_configs {{ layer_name: "y" {block} }}')
    with pytest.raises(ConfigValueError, match=r"in layer y$"):
        settings(recipe, "conv_bn_relu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retrain_data_quant_config { ulq_quantize { clip_max_min { clip_max: 1 } } }", "clip_min is missing"),
        ("retrain_data_quant_config { ulq_quantize { clip_max_min { clip_max: -1 clip_min: -2 } } }", "it is above 0"),
        ("retrain_data_quant_config { ulq_quantize { dst_type: INT4 } }", "do not go together"),
        ("retrain_weight_quant_config { arq_retrain { dst_type: INT16 } }", "it is INT4 or INT8"),
        ("retrain_weight_quant_config { arq_retrain { dst_type: INT2 } }", "it is one of INT4, INT8, INT16"),
        ("batch_num: 0 quant_skip_types: 'a'", "batch_num is 0"),
        ("prune_config { filter_pruner { balanced_l2_norm_filter_prune { prune_ratio: 1 } } }", "it lies in (0, 1)"),
        ("prune_config { filter { } }", "Did you mean"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_simplified_configuration(text: str, message: str) -> None:
    with pytest.raises(ConfigValueError) as e:
        cfg(text)
    assert message in str(e.value)
    assert str(e.value).startswith("retrain.cfg")


def test_pruning_in_the_simplified_configuration_is_noted() -> None:
    recipe = cfg(
        "prune_config { n_out_of_m_pruner { l1_selective_prune { n_out_of_m_type: M4N2 } } } "
        'regular_prune_skip_layers: "a" override_layer_configs { layer_name: "b" prune_config { } }'
    )
    assert len(recipe.notes) == 3
    assert not any(n.honoured for n in recipe.notes)


def test_fields_of_the_whole_file() -> None:
    recipe = cfg("fakequant_precision_mode: FORCE_FP16_QUANT quant_skip_types: 'Conv2d'")
    assert recipe.scale_format == "float16"
    assert recipe.rules[-1].where == OpType("Conv2d")
    assert recipe.rules[-1].settings.compute == "float32"


# ------------------------------------------------------------------------------------------ writing

datas = st.one_of(
    st.fixed_dictionaries(
        {"algo": st.just("ulq_quantize")}, optional={"fixed_min": st.booleans()}
    ),
    st.fixed_dictionaries(
        {
            "clip_max": st.sampled_from([0.5, 3.0]),
            "clip_min": st.sampled_from([-0.5, -3.0]),
            "dst_type": st.sampled_from(["INT8", "INT16"]),
        }
    ),
)
weight_configs = st.fixed_dictionaries(
    {},
    optional={
        "algo": st.sampled_from(["arq_retrain", "ulq_retrain"]),
        "channel_wise": st.booleans(),
        "dst_type": st.just("INT8"),
    },
)
layer_objects = st.fixed_dictionaries(
    {"retrain_enable": st.booleans()},
    optional={"retrain_data_config": datas, "retrain_weight_config": weight_configs},
)


@given(st.dictionaries(st.sampled_from(["a", "b/c", "d.0"]), layer_objects), st.integers(1, 9))
@effort(max_examples=40)
def test_a_configuration_survives_being_read_and_written(
    layers: dict[str, Any], batches: int
) -> None:
    content = {"batch_num": batches, "always": {"retrain_enable": True}, **layers}
    recipe = amct_retrain.load(json.dumps(content), None)
    assert meaning(amct_retrain.load(dump_recipe(recipe, "amct-retrain"), None)) == meaning(recipe)


def test_a_simplified_configuration_survives_being_written() -> None:
    text = (
        GLOBAL
        + 'skip_layers: "conv2" skip_layer_types: "Linear" fakequant_precision_mode: FORCE_FP16_QUANT\n'
        'override_layer_configs { layer_name: "conv1" '
        "retrain_data_quant_config { ulq_quantize { dst_type: INT16 } } "
        "retrain_weight_quant_config { ulq_retrain { channel_wise: false } } }"
    )
    recipe = cfg(text)
    again = load_recipe(dump_recipe(recipe, "amct-retrain-cfg"))
    assert settings(again, "conv_bn_relu")[0] == settings(recipe, "conv_bn_relu")[0]
    assert (again.calibration, again.scale_format, again.training) == (
        recipe.calibration,
        recipe.scale_format,
        True,
    )


def test_what_is_written_for_a_model() -> None:
    content = json.loads(create_retrain_config(NETS["pools"]()[0]))
    assert list(content) == ["version", "batch_num", "conv1", "conv2", "conv3", "y"]
    assert content["conv1"] == {
        "retrain_enable": True,
        "retrain_data_config": {"algo": "ulq_quantize", "dst_type": "INT8"},
        "retrain_weight_config": {"algo": "arq_retrain", "channel_wise": True, "dst_type": "INT8"},
    }
    assert content["y"]["retrain_weight_config"]["channel_wise"] is False
    text = create_retrain_config(
        NETS["residual"]()[0], config=cfg(GLOBAL + 'skip_layers: "conv1"')
    )
    assert json.loads(text)["conv1"]["retrain_enable"] is False
    assert create_retrain_config(NETS["residual"]()[0], config=load_recipe(text)) == text


def test_what_the_files_cannot_say_is_refused() -> None:
    post = load_recipe("batch_num: 1\ncommon_config { ifmr_quantize { } }")
    with pytest.raises(UnsupportedError, match="activation algorithm 'ifmr"):
        dump_recipe(post, "amct-retrain-cfg")
    with pytest.raises(UnsupportedError, match="needs the model"):
        dump_recipe(post, "amct-retrain")
    native = load_recipe(
        "calibrant: 1\nrules:\n- {where: {layer: a}, weight: arq}\n- {where: all, weight: arq}\n"
    )
    with pytest.raises(UnsupportedError, match="comes after a narrower one"):
        dump_recipe(native, "amct-retrain-cfg")
    with pytest.raises(ConfigValueError, match="No layer retrain enabled"):
        create_retrain_config(
            NETS["residual"]()[0], config=cfg(GLOBAL + "skip_layer_types: 'Conv2d'")
        )

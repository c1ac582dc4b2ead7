"""Other editions of AMCT's files: older blocks, small chips, 4 bits, and sections for what is not done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.errors import ConfigRuntimeError, ConfigValueError, UnsupportedError
from calibrant.recipe import Recipe, Settings
from tests.dialects._help import options, settings

CONV = "conv_calibration_config { arq_quantize { channel_wise: true } ifmr_quantize { search_step: 0.02 } }\n"
FC = "fc_calibration_config { hfmg_quantize { num_of_bins: 1024 } }\n"


def layers(text: str, net: str = "pools") -> dict[str, Settings]:
    return settings(load_recipe(text), net)[0]


def undone(recipe: Recipe) -> list[str]:
    return [n.message for n in recipe.notes if not n.honoured]


# ------------------------------------------------------------------------------------- an empty file


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing yet\n\n# nothing at all"])
@pytest.mark.parametrize("how", ["suffix", "dialect", "vendor", "if_empty"])
def test_an_empty_file_means_all_defaults(text: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / ("quant.cfg" if how == "suffix" else "quant.txt")
    path.write_text(text)
    named: dict[str, dict[str, str]] = {
        "suffix": {},
        "dialect": {"dialect": "amct-cfg"},
        "vendor": {"dialect": "amct"},
        "if_empty": {"if_empty": "amct"},
    }
    recipe = load_recipe(path, **named[how])  # type: ignore[arg-type]
    said = settings(recipe, "pools")[0]
    assert {n: s.compute for n, s in said.items() if n in ("conv1", "y", "avg1", "relu1")} == {
        "conv1": "int",
        "y": "int",
        "avg1": "int",
    } | ({"relu1": "float32"} if "relu1" in said else {})
    assert options(said["conv1"])["search_step"] == 0.01
    assert (recipe.calibration.batch_num, recipe.target) == (1, "layers-only")


@pytest.mark.parametrize(
    ("dialect", "target"), [("horizon", "horizon-like"), ("amct-retrain", "layers-only")]
)
def test_other_dialects_have_defaults_too(dialect: str, target: str) -> None:
    assert load_recipe("# nothing\n", dialect=dialect).target == target


def test_an_empty_file_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigValueError, match=r"it says nothing.*--dialect, one of amct-cfg"):
        load_recipe("\n")
    with pytest.raises(ConfigValueError, match=r"device is missing.*quantize_algo is missing"):
        load_recipe("\n", dialect="ascend")


# ------------------------------------------------------------------------------------- older blocks


def test_older_blocks_are_for_convolutions_and_for_fully_connected_layers() -> None:
    found = layers(CONV + FC)
    assert options(found["conv1"])["search_step"] == 0.02
    assert found["conv1"].weight_per_channel is True
    for name in ("y", "avg1"):
        assert options(found[name]) == {"bins": 1024}
        assert found[name].weight_per_channel is False


def test_a_type_without_an_older_block_has_the_defaults() -> None:
    assert options(layers(CONV)["y"])["search_step"] == 0.01
    assert options(layers(FC)["conv1"])["search_step"] == 0.01


def test_a_layers_own_block_replaces_an_older_one() -> None:
    own = 'override_layer_configs { layer_name: "conv1" calibration_config { hfmg_quantize { } } }'
    found = layers(CONV + own)
    assert options(found["conv1"]) == {"bins": 4096}
    assert options(found["conv2"])["search_step"] == 0.02


@pytest.mark.parametrize(
    "newer",
    [
        "common_config { }",
        'override_layer_types { layer_type: "Conv2d" calibration_config { } }',
    ],
)
def test_beside_newer_blocks_the_older_ones_are_noted_and_left_aside(newer: str) -> None:
    recipe = load_recipe(CONV + FC + newer)
    assert options(settings(recipe, "pools")[0]["conv1"])["search_step"] == 0.01
    assert undone(recipe) == [
        "conv_calibration_config and fc_calibration_config have no effect beside common_config and "
        "override_layer_types."
    ]


def test_fully_connected_layers_have_no_channels() -> None:
    text = "fc_calibration_config { arq_quantize { channel_wise: true } }"
    with pytest.raises(
        ConfigValueError, match=r":1:40: fc_calibration_config.arq_quantize.channel_wise is true"
    ):
        load_recipe(text)


# --------------------------------------------------------------------------------------------- widths


@pytest.mark.parametrize(
    ("block", "bits"),
    [
        ("arq_quantize { quant_bits: 4 }", (8, 4)),
        ("arq_quantize { num_bits: 4 } ifmr_quantize { num_bits: 4 }", (4, 4)),
        ("arq_quantize { num_bits: 8 } hfmg_quantize { num_bits: 16 }", (16, 8)),
    ],
)
def test_widths_mean_what_they_say(block: str, bits: tuple[int, int]) -> None:
    found = layers(f"common_config {{ {block} }}")["conv1"]
    assert (found.activation_bits, found.weight_bits) == bits


def test_average_pooling_keeps_8_bits_and_says_so() -> None:
    found, notes = settings(
        load_recipe("common_config { ifmr_quantize { num_bits: 4 } }"), "pools"
    )
    assert (found["conv1"].activation_bits, found["avg1"].activation_bits) == (4, 8)
    assert any("its activations run in 8 bits alone" in n.message for n in notes)


# ---------------------------------------------------------------------------------- what is not done

ASIDE = {
    "kv": ("kv_cache_quant_config { quant_layers: 'a' calibration_config { hfmg_quantize { quant_granularity: "
           "per_channel } } }\noverride_layers_configs { layer_name: 'b' }\n",
           "KV caches are not quantized: kv_cache_quant_config, override_layers_configs are left aside."),
    "distillation": ("group_size: 2 distill_group { start_layer_name: 'a' end_layer_name: 'b' }\n"
                     "distill_data_quant_config { ulq_quantize { dst_type: INT4 } } quant_skip_layers: 'conv1'\n",
                     "Distillation is not done: group_size, distill_group, distill_data_quant_config are left aside."),
    "pruning": ("compress_ratio: 1.5 ascend_optimized: true max_prune_ratio: 0.8 test_iteration: 1\n",
                "Pruning is not done: compress_ratio, ascend_optimized, max_prune_ratio, test_iteration are left "
                "aside."),
    "bit search": ("compress_ratio: 7.11\ntest_iteration: 1\n",
                   "Bit widths are not searched for: compress_ratio, test_iteration are left aside."),
}  # fmt: skip


@pytest.mark.parametrize("what", ASIDE)
@pytest.mark.parametrize("rest", ["", "batch_num: 3\ncommon_config { hfmg_quantize { } }\n"])
def test_a_section_for_what_is_not_done_is_one_sentence_and_the_rest_counts(
    what: str, rest: str
) -> None:
    text, sentence = ASIDE[what]
    recipe = load_recipe(text + rest)
    assert undone(recipe) == [sentence]
    assert recipe.calibration.batch_num == (3 if rest else 1)
    found = settings(recipe, "pools")[0]
    assert found["conv2"].activation is not None
    assert found["conv2"].activation.name == ("hfmg" if rest else "ifmr")
    assert found["conv1"].compute == ("float32" if what == "distillation" else "int")
    with pytest.raises(UnsupportedError, match="left aside"):
        load_recipe(text + rest, strict=True)


def test_several_of_them_are_a_sentence_each() -> None:
    text = ASIDE["kv"][0] + ASIDE["distillation"][0]
    recipe = load_recipe(text)
    assert undone(recipe) == [ASIDE["kv"][1], ASIDE["distillation"][1]]
    assert [n.where for n in recipe.notes] == ["the configuration:1:1", "the configuration:3:1"]
    with pytest.raises(UnsupportedError) as caught:
        load_recipe(text, strict=True)
    assert len(caught.value.parts) == 2


def test_what_is_wrong_beside_them_keeps_its_place() -> None:
    with pytest.raises(ConfigValueError, match=r"^the configuration:3:1: batch_nun is not known"):
        load_recipe(ASIDE["kv"][0] + "batch_nun: 1 batch_num: 2")


def config(**said: Any) -> str:
    return json.dumps({"version": 1, "batch_num": 2, **said}, indent=1)


def test_such_sections_of_a_config_json() -> None:
    layer = {
        "quant_enable": True,
        "distill_data_config": {"algo": "ulq_quantize"},
        "distill_weight_config": {"algo": "arq_distill"},
    }
    text = config(group_size=1, distill_group=[["conv1"]], conv1=layer)
    recipe = load_recipe(text)
    assert undone(recipe) == [
        "Distillation is not done: group_size, distill_group, conv1.distill_data_config, "
        "conv1.distill_weight_config are left aside."
    ]
    assert settings(recipe, "pools")[0]["conv1"].compute == "int"
    cache = config(conv1={"kv_data_quant_config": {"act_algo": "hfmg"}})
    with pytest.raises(ConfigRuntimeError, match=r"KV caches are not quantized: conv1\.kv_data"):
        load_recipe(cache)
    with pytest.raises(ConfigRuntimeError, match="nothing would be quantized"):
        load_recipe(cache, strict=True)


def test_a_layer_may_be_called_like_such_a_section() -> None:
    recipe = load_recipe(config(group_size={"quant_enable": True}))
    assert [str(r.where) for r in recipe.rules if r.force == "required"] == ["layer group_size"]


def test_pruning_beside_training_is_noted() -> None:
    for text in (
        "prune_config { filter_pruner { balanced_l2_norm_filter_prune { prune_ratio: 0.3 } } }",
        'override_layer_configs { layer_name: "conv1" prune_config { n_out_of_m_pruner { } } }',
    ):
        recipe = load_recipe(text)
        assert recipe.training
        assert undone(recipe) == ["Pruning is not done: weights are quantized as they are."]


def test_a_converted_file_keeps_the_sentences() -> None:
    native = load_recipe(dump_recipe(load_recipe(ASIDE["kv"][0])))
    assert undone(native) == [ASIDE["kv"][1]]

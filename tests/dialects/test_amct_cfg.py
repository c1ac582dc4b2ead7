from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibrant.dialects import dump_recipe, load_recipe
from calibrant.dialects.amct import cfg as amct_cfg
from calibrant.dialects.amct.write import create_config
from calibrant.errors import (
    ConfigTypeError,
    ConfigValueError,
)
from calibrant.plan import resolve
from calibrant.recipe import AlgorithmChoice, LayerInput, MappedLayers, OpType, Recipe, Settings
from tests.dialects._help import GOLDEN, IFMR, options, prepared, settings
from tests.models import NETS

FILE = Path("quant.cfg")


def load(text: str) -> Recipe:
    return amct_cfg.load(text, FILE)


def layers(text: str, net: str = "residual") -> dict[str, Settings]:
    return settings(load(text), net)[0]


def config(text: str, net: str = "residual") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(create_config(NETS[net]()[0], config=load(text)))
    return content


def common(block: str) -> str:
    return f" common_config {{ {block} }}"


def override(name: str, block: str) -> str:
    return f'override_layer_configs {{ layer_name: "{name}" calibration_config {{ {block} }} }}'


def by_type(name: str, block: str) -> str:
    return f'override_layer_types {{ layer_type: "{name}" calibration_config {{ {block} }} }}'


# ---------------------------------------------------------------------------------------- samples

SAMPLES = sorted(p.name for p in GOLDEN.glob("amct_*.cfg"))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_printed_sample_loads_as_it_stands(name: str) -> None:
    recipe = load_recipe(GOLDEN / name)
    assert recipe.target == "layers-only"
    lost = any("line breaks are lost" in n.message for n in recipe.notes)
    assert lost == (not name.endswith("_lines.cfg"))


@pytest.mark.parametrize("name", [n for n in SAMPLES if n.endswith("_lines.cfg")])
def test_a_sample_without_its_line_breaks_means_the_same(name: str) -> None:
    whole = load_recipe(GOLDEN / name)
    in_one_line = load_recipe(GOLDEN / name.replace("_lines", ""))
    assert [(r.where, r.settings) for r in whole.rules] == [
        (r.where, r.settings) for r in in_one_line.rules
    ]
    assert (whole.calibration, whole.fusion) == (in_one_line.calibration, in_one_line.fusion)


@pytest.mark.parametrize("name", ["amct_uniform_lines.cfg", "amct_nuq_lines.cfg"])
def test_the_samples_load_with_hfmg_in_place_of_ifmr(name: str) -> None:
    text = (GOLDEN / name).read_text()
    start = text.index("    ifmr_quantize")
    end = text.index("    }\n", start) + len("    }\n")
    hfmg = "    hfmg_quantize : {\n        num_of_bins : 4096\n        asymmetric : false\n    }\n"
    recipe = load_recipe(text[:start] + hfmg + text[end:])
    rule = next(r for r in recipe.rules if "common_config" in r.origin)
    assert rule.settings.activation == AlgorithmChoice.of("hfmg", {"bins": 4096})
    assert rule.settings.activation_symmetric is True


def test_the_uniform_sample_says_what_it_says() -> None:
    recipe = load_recipe(GOLDEN / "amct_uniform_lines.cfg")
    said = {r.origin.split(" ", 1)[1]: r.settings for r in recipe.rules if r.force != "implied"}
    assert said["common_config"].weight_bits == 7
    assert said["override_layer_types 'Conv2D'"].weight_bits == 6
    assert options(said["override_layer_types 'Conv2D'"])["search_range"] == (0.8, 1.2)
    assert said["override_layer_configs 'Opname'"].weight_per_channel is True
    assert said["skip_layers 'Opname'"].compute == "float32"
    assert said["skip_layer_types 'Optype'"].compute == "float32"
    assert recipe.calibration.batch_num == 2
    assert recipe.calibration.behind == "weights"
    assert load_recipe(dump_recipe(recipe)).calibration == recipe.calibration
    assert recipe.fusion.skip == ("Opname",)
    twice = [n for n in recipe.notes if "the last one counts" in n.message]
    assert len(twice) == 1
    assert recipe.rules[-1].where == LayerInput("Opname", 0, ("MaxPool", "Add"))


def test_the_nuq_sample_names_its_mapping_file() -> None:
    recipe = load_recipe(GOLDEN / "amct_nuq_lines.cfg")
    (rule,) = [r for r in recipe.rules if isinstance(r.where, MappedLayers)]
    assert rule.where == MappedLayers("nuq_files/resnet50_quantized.json", None)
    assert rule.settings.weight == AlgorithmChoice.of("nuq", {"levels": 32, "rounds": 0})


# ------------------------------------------------------------------------------- levels and skips


def test_the_level_of_a_layer_beats_that_of_its_type_and_that_of_all() -> None:
    text = "\n".join(
        [
            common("ifmr_quantize { search_step: 0.02 }"),
            by_type("Conv2d", "ifmr_quantize { search_step: 0.03 }"),
            override("conv1", "ifmr_quantize { search_step: 0.04 }"),
        ]
    )
    found = layers(text, "conv_bn_relu")
    steps = {n: options(found[n])["search_step"] for n in ("conv1", "conv2", "y")}
    assert steps == {"conv1": 0.04, "conv2": 0.03, "y": 0.02}


def test_blocks_are_not_merged() -> None:
    text = common(
        "hfmg_quantize { num_of_bins: 1024 } arq_quantize { channel_wise: false quant_bits: 7 } "
        "dmq_balancer { migration_strength: 0.3 }"
    ) + override("conv1", "arq_quantize { }")
    found = layers(text)
    assert found["conv2"].activation == AlgorithmChoice.of("hfmg", {"bins": 1024})
    assert (found["conv2"].weight_bits, found["conv2"].weight_per_channel) == (7, False)
    assert found["conv2"].balance == 0.3
    assert found["conv1"].activation == AlgorithmChoice.of("ifmr", IFMR)
    assert (found["conv1"].weight_bits, found["conv1"].weight_per_channel) == (8, True)
    assert found["conv1"].balance is None


def test_skipping_beats_a_block_of_the_layer() -> None:
    text = 'skip_layers: "conv1"' + override("conv1", "ifmr_quantize { }")
    assert layers(text)["conv1"].compute == "float32"
    assert config(text)["conv1"]["quant_enable"] is False


def test_skipped_types() -> None:
    found = layers('skip_layer_types: "Linear"', "conv_bn_relu")
    assert (found["y"].compute, found["conv1"].compute) == ("float32", "int")


def test_everything_is_quantized_but_what_the_vendor_leaves() -> None:
    found = layers("batch_num: 1", "pools")
    assert sorted(n for n, s in found.items() if s.compute == "int") == [
        "avg1",
        "conv1",
        "conv2",
        "conv3",
        "y",
    ]
    found = layers("batch_num: 1", "attention_add")
    dynamic = [n for n, s in found.items() if s.compute == "int" and "scores" in n]
    assert dynamic == []


# ----------------------------------------------------------------------- asymmetric


@pytest.mark.parametrize(
    ("text", "symmetric"),
    [
        ("activation_offset: true", False),
        ("activation_offset: false", True),
        ("activation_offset: false" + common("ifmr_quantize { asymmetric: true }"), False),
        ("activation_offset: true" + common("ifmr_quantize { asymmetric: false }"), True),
        (
            common("ifmr_quantize { asymmetric: true }")
            + by_type("Conv2d", "ifmr_quantize { asymmetric: false }"),
            True,
        ),
        (
            by_type("Conv2d", "ifmr_quantize { asymmetric: true }")
            + override("conv1", "ifmr_quantize { asymmetric: false }"),
            True,
        ),
        # unset in the override: the common value counts if the algorithm is the same
        (
            "activation_offset: true"
            + common("ifmr_quantize { asymmetric: false }")
            + override("conv1", "ifmr_quantize { }"),
            True,
        ),
        (
            "activation_offset: true"
            + common("ifmr_quantize { asymmetric: false }")
            + override("conv1", "hfmg_quantize { }"),
            False,
        ),
        (
            "activation_offset: false"
            + common("hfmg_quantize { asymmetric: true }")
            + override("conv1", "hfmg_quantize { }"),
            False,
        ),
    ],
)
def test_which_level_decides_asymmetric(text: str, symmetric: bool) -> None:
    assert layers(text)["conv1"].activation_symmetric is symmetric
    section = config(text)["conv1"]["activation_quant_params"]
    assert section["asymmetric"] is not symmetric


# ------------------------------------------------------------------------------- fields resolved


@pytest.mark.parametrize(
    ("block", "option", "value"),
    [
        ("search_range_start: 0.3 search_range_end: 1.7", "search_range", (0.3, 1.7)),
        ("search_step: 0.05", "search_step", 0.05),
        ("max_percentile: 0.99", "max_percentile", 0.99),
        ("min_percentile: 0.98", "min_percentile", 0.98),
    ],
)
def test_ifmr_options(block: str, option: str, value: Any) -> None:
    found = layers(common(f"ifmr_quantize {{ {block} }}"))["conv1"]
    assert options(found) == IFMR | {option: value}


def test_floats_come_out_as_written() -> None:
    text = common("ifmr_quantize { search_step: 0.01 max_percentile: 0.999999 }")
    written = create_config(NETS["residual"]()[0], config=load(text))
    assert '"search_step":0.01,' in written
    assert '"max_percentile":0.999999,' in written


@pytest.mark.parametrize("bins", [1024, 2048, 4096, 8192])
def test_hfmg(bins: int) -> None:
    section = config(common(f"hfmg_quantize {{ num_of_bins: {bins} }}"))["conv1"]
    assert section["activation_quant_params"] == {
        "num_bits": 8,
        "act_algo": "hfmg",
        "asymmetric": True,
        "num_of_bins": bins,
    }


@pytest.mark.parametrize("algorithm", ["ifmr_quantize", "hfmg_quantize"])
def test_dst_type(algorithm: str) -> None:
    text = common(f"{algorithm} {{ dst_type: INT16 }}")
    assert layers(text)["conv1"].activation_bits == 16
    assert config(text)["conv1"]["activation_quant_params"]["num_bits"] == 16


def test_balancer_with_and_without_its_strength() -> None:
    assert layers(common("dmq_balancer { }"))["conv1"].balance == 0.5
    text = common("dmq_balancer { migration_strength: 0.8 }")
    assert config(text)["conv1"]["dmq_balancer_param"] == 0.8


def test_weights() -> None:
    assert (
        layers(common("arq_quantize { channel_wise: false }"))["conv1"].weight_per_channel is False
    )
    assert layers(common("arq_quantize { quant_bits: 6 }"))["conv1"].weight_bits == 6
    nuq = layers(common("nuq_quantize { num_steps: 16 num_of_iteration: 2 }"))["conv1"]
    assert nuq.weight == AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 2})
    ada = config(common("ada_quantize { num_iteration: 7 warm_start: 0.5 channel_wise: false }"))
    assert ada["conv1"]["weight_quant_params"] == {
        "num_bits": 8,
        "num_iteration": 7,
        "reg_param": 0.01,
        "beta_range": [20.0, 2.0],
        "warm_start": 0.5,
        "channel_wise": False,
        "wts_algo": "ada_quantize",
    }


def test_global_fields() -> None:
    recipe = load(
        "batch_num: 3 joint_quant: true fakequant_precision_mode: FORCE_FP16_QUANT do_fusion: false "
        'skip_fusion_layers: "conv1" version: 1 skip_approximation_layers: "a"'
    )
    assert recipe.calibration.batch_num == 3
    assert recipe.joint
    assert recipe.scale_format == "float16"
    assert (recipe.fusion.batch_norm, recipe.fusion.skip) == (False, ("conv1",))
    assert [(n.where, n.honoured) for n in recipe.notes] == [
        ("quant.cfg:1:131", False),
        ("quant.cfg:1:120", True),
    ]


def test_tensors_for_their_own_sake() -> None:
    tensor = 'tensor_quantize { layer_name: "add1" input_index: 1 %s }'
    plan = resolve(load('skip_layer_types: "Conv2d"' + tensor % ""), prepared("residual"))
    (decision,) = plan.activations
    assert decision.users == (("add1", 1),)
    assert decision.algorithm == AlgorithmChoice.of("ifmr", IFMR)
    text = tensor % "hfmg_quantize { num_of_bins: 1024 asymmetric: false }"
    rule = load(text).rules[-1]
    assert rule.settings.activation == AlgorithmChoice.of("hfmg", {"bins": 1024})
    assert rule.settings.activation_symmetric is True
    inherits = common("ifmr_quantize { asymmetric: false }") + tensor
    assert load(inherits % "").rules[-1].settings.activation_symmetric is True
    assert load(inherits % "hfmg_quantize { }").rules[-1].settings.activation_symmetric is False
    written = config(tensor % "")["tensor_quantize"]
    assert written[0]["layer_name"] == "add1"
    assert written[0]["input_index"] == 1


@pytest.mark.parametrize(
    "text",
    [
        common("ifmr_quantize { } hfmg_quantize { }"),
        by_type("Conv2d", "hfmg_quantize { } ifmr_quantize { }"),
        override("conv1", "ifmr_quantize { }\nhfmg_quantize { num_of_bins: 1024 }"),
        'tensor_quantize { layer_name: "add1" input_index: 1 ifmr_quantize { } hfmg_quantize { } }',
    ],
)
def test_two_algorithms_in_one_block_are_refused(text: str) -> None:
    with pytest.raises(ConfigValueError, match=r"quant.cfg:\d+:\d+: .* exclude each other in "):
        load(text)


def test_the_last_of_two_algorithms_for_weights_counts() -> None:
    recipe = load(common("arq_quantize { } ada_quantize { }"))
    assert "the last one, ada_quantize, counts" in recipe.notes[0].message


# ------------------------------------------------------------------------------------- NUQ's layers


@pytest.mark.parametrize(
    "content",
    [
        {"layers": ["conv1", "elsewhere"]},
        {"graph": [{"op": [{"name": "conv1", "type": "Conv"}]}, {"name": "elsewhere"}]},
    ],
)
def test_the_mapping_file_says_which_layers_are_non_uniform(
    content: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "map.json").write_text(json.dumps(content))
    file = tmp_path / "quant.cfg"
    file.write_text(
        'nuq_config { mapping_file: "map.json" nuq_quantize { num_steps: 16 } }\n'
        + common("arq_quantize { channel_wise: false quant_bits: 7 }")
    )
    found = settings(load_recipe(file))[0]
    assert found["conv1"].weight == AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 1})
    assert (found["conv1"].weight_bits, found["conv1"].weight_per_channel) == (8, False)
    assert found["conv2"].weight == AlgorithmChoice("arq")


def test_a_mapping_file_that_is_missing_or_names_nothing(tmp_path: Path) -> None:
    text = 'nuq_config { mapping_file: "map.json" }\n'
    with pytest.raises(ConfigValueError, match=r"mapping file .map\.json. does not exist"):
        settings(amct_cfg.load(text, tmp_path / "quant.cfg"))
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(ConfigValueError, match="names no layer"):
        amct_cfg.load(text, tmp_path / "quant.cfg")
    (tmp_path / "map.json").write_text("{")
    with pytest.raises(ConfigValueError, match="not valid JSON"):
        amct_cfg.load(text, tmp_path / "quant.cfg")


def test_the_steps_of_a_layer_beat_those_of_the_mapping_file(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"layers": ["conv1", "conv2"]}')
    text = 'nuq_config { mapping_file: "map.json" }\n' + override(
        "conv1", "nuq_quantize { num_steps: 16 }"
    )
    found = settings(amct_cfg.load(text, tmp_path / "quant.cfg"))[0]
    assert found["conv1"].weight == AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 1})
    assert found["conv2"].weight == AlgorithmChoice.of("nuq", {"levels": 32, "rounds": 1})


# --------------------------------------------------------------------------- what a layer cannot do


@pytest.mark.parametrize(
    ("block", "net", "layer", "field", "value"),
    [
        ("arq_quantize { channel_wise: true }", "conv_bn_relu", "y", "weight_per_channel", False),
        ("arq_quantize { quant_bits: 7 }", "conv_bn_relu", "y", "weight_bits", 8),
        ("arq_quantize { quant_bits: 6 }", "conv_transpose", "up1", "weight_bits", 8),
        ("ifmr_quantize { dst_type: INT16 }", "pools", "avg1", "activation_bits", 8),
        ("ifmr_quantize { dst_type: INT16 }", "matmul_mlp", "fc2", "activation_bits", 8),
        ("dmq_balancer { }", "pools", "avg1", "balance", None),
    ],
)
def test_a_common_setting_gives_way_with_a_note_and_an_override_is_an_error(
    block: str, net: str, layer: str, field: str, value: Any
) -> None:
    found, notes = settings(load(common(block)), net)
    layer = layer if layer in found else next(n for n in found if n.startswith("up"))
    assert getattr(found[layer], field) == value
    (place,) = [n.where for n in notes if f"'{layer}'" in n.message]
    assert place.startswith(f"quant.cfg:1 common_config {block.split()[0]}")
    with pytest.raises(ConfigValueError, match=f"in layer {layer}$"):
        settings(load(override(layer, block)), net)


def test_sixteen_bits_where_a_layer_has_them() -> None:
    text = common("ifmr_quantize { dst_type: INT16 }")
    assert layers(text, "matmul_mlp")["fc1"].activation_bits == 16


# ----------------------------------------------------------------------------------------- rejected


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("batch_num: 0", ConfigValueError, "quant.cfg:1:1: batch_num is 0; it is 1 or more."),
        ("batch_num: -1", ConfigValueError, "quant.cfg:1:12: batch_num is -1; it lies in [0, 42949"),
        ("batch_num: 1.0", ConfigTypeError, "batch_num is 1.0; it is a whole number."),
        ("batch_nun: 1", ConfigValueError, "Did you mean 'batch_num'?"),
        ("version: 2", ConfigValueError, "version is 2; it is 1."),
        ("activation_offset: maybe", ConfigTypeError, "it is true or false"),
        ('skip_layers: "a" skip_layers: "a"', ConfigValueError, "'a' stands twice"),
        ('skip_layer_types: "a" skip_layer_types: "a"', ConfigValueError, "'a' stands twice"),
        ('skip_fusion_layers: "a" skip_fusion_layers: "a"', ConfigValueError, "'a' stands twice"),
        ("fakequant_precision_mode: FP16", ConfigValueError, "it is one of DEFAULT, FORCE_FP16_QUANT"),
        (common("arq_quantize { quant_bits: 5 }"), ConfigValueError, "quant_bits is 5; it is 4, 6, 7 or 8"),
        (common("ifmr_quantize { max_percentile: 0.3 }"), ConfigValueError,
         "common_config.ifmr_quantize.max_percentile is 0.3; it lies in (0.5, 1]."),
        (common("ifmr_quantize { min_percentile: 1.5 }"), ConfigValueError, "it lies in (0.5, 1]"),
        (common("ifmr_quantize { max_percentile: nan }"), ConfigValueError, "it lies in (0.5, 1]"),
        (common("ifmr_quantize { search_step: 0 }"), ConfigValueError, "search_step is 0"),
        (common("ifmr_quantize { search_step: 0.7 }"), ConfigValueError, "it lies in (0, 0.6]"),
        (common("ifmr_quantize { search_range_start: 1.5 }"), ConfigValueError, "search_range_end is 1.3; it is above search_range_start, which is 1.5"),
        (common("ifmr_quantize { dst_type: INT4 }"), ConfigValueError, "it is one of INT8, INT16"),
        (common("hfmg_quantize { num_of_bins: 100 }"), ConfigValueError, "it is 1024, 2048, 4096 or 8192"),
        (common("nuq_quantize { num_steps: 64 }"), ConfigValueError, "it is 16 or 32"),
        (common("nuq_quantize { num_of_iteration: 6 }"), ConfigValueError, "num_of_iteration is 6"),
        (common("dmq_balancer { migration_strength: 0.9 }"), ConfigValueError, "it lies in [0.2, 0.8]"),
        (common("ada_quantize { reg_param: 1 }"), ConfigValueError, "it lies in (0, 1)"),
        (common("ada_quantize { beta_range_start: 1 }"), ConfigValueError, "beta_range_start is 1.0; it is above beta_range_end, which is 2.0"),
        ("nuq_config { }", ConfigValueError, "nuq_config.mapping_file is missing"),
        ("override_layer_types { calibration_config { } }", ConfigValueError, "layer_type is missing"),
        ('override_layer_configs { layer_name: "a" }', ConfigValueError, "calibration_config is missing"),
        (override("a", "") + override("a", ""), ConfigValueError, "has a block already"),
        (by_type("Conv", "") + by_type("Conv", ""), ConfigValueError, "has a block already"),
        ('tensor_quantize { layer_name: "a" }', ConfigValueError, "tensor_quantize[0].input_index is missing"),
        ('tensor_quantize { layer_name: "a" input_index: 0 } tensor_quantize { layer_name: "a" input_index: 1 }',
         ConfigValueError, "only one input of a node"),
        ("common_config {", ConfigValueError, "this is not valid protobuf text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        load(text)
    assert message in str(e.value)
    assert str(e.value).startswith("quant.cfg:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('skip_layers: "conv_1"', r"quant.cfg:1 skip_layers 'conv_1': .*Did you mean 'conv1'"),
        ('skip_layers: "relu1"', "is a Relu, which is not quantized"),
        ('skip_layer_types: "Conv2"', "Unknown operator type 'Conv2'.*Did you mean 'Conv"),
        ('skip_layer_types: "Relu"', "is a Relu, which is not quantized"),
        (override("conv_1", ""), r"quant.cfg:1 override_layer_configs 'conv_1': .*Did you mean"),
        (by_type("Relu", ""), "is a Relu, which is not quantized"),
        ('tensor_quantize { layer_name: "conv1" input_index: 0 }', "MaxPool or Add alone"),
        ('tensor_quantize { layer_name: "add1" input_index: 2 }', "has no input 2"),
    ],
)
def test_what_the_model_does_not_have(text: str, message: str) -> None:
    with pytest.raises(ConfigValueError, match=message):
        settings(load(text))


def test_everything_skipped() -> None:
    text = 'skip_layer_types: "Conv2d"'
    with pytest.raises(ConfigValueError, match="No layer is left to quantize"):
        config(text)
    with pytest.raises(ConfigValueError, match="Nothing is left to quantize"):
        resolve(load(text), prepared("residual"))


@pytest.mark.parametrize("spelling", ["Conv2d", "Conv2D", "Convolution", "Conv"])
def test_types_in_every_editions_spelling(spelling: str) -> None:
    assert layers(by_type(spelling, "arq_quantize { quant_bits: 6 }"))["conv1"].weight_bits == 6
    assert OpType(spelling) in [r.where for r in load(by_type(spelling, "")).rules]


def test_results_of_a_run_are_those_of_the_algorithm_that_is_asked_for() -> None:
    import calibrant

    model, feeds = NETS["conv_bn_relu"]()
    text = common("hfmg_quantize { num_of_bins: 1024 asymmetric: false }") + 'skip_layers: "y"'
    done = calibrant.quantize(model, feeds(batch=4), load(text))
    assert {str(d.algorithm) for d in done.plan.activations} == {"hfmg(bins=1024)"}
    assert {d.node for d in done.plan.layers if not d.quantized} == {"y"}

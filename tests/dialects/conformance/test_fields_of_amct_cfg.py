"""AMCT's simplified configuration, field by field (docs/reference/ascend-configurations.md)."""

from __future__ import annotations

from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError
from tests.dialects.conformance._case import IFMR, accept, refuse, resolved
from tests.dialects.conformance._zoo import LAYERS, explained, planned

T, V = ConfigTypeError, ConfigValueError


def common(block: str) -> str:
    return f"common_config : {{ {block} }}\n"


def by_type(name: str, block: str = "") -> str:
    return (
        f'override_layer_types : {{ layer_type : "{name}" calibration_config : {{ {block} }} }}\n'
    )


def by_name(name: str, block: str = "") -> str:
    return f'override_layer_configs : {{ layer_name : "{name}" calibration_config : {{ {block} }} }}\n'


# ------------------------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_every_layer_is_quantized_with_the_defaults_when_nothing_is_said(layer: str) -> None:
    kind = LAYERS[layer]
    accept(
        "batch_num: 1\n",
        {
            layer: {
                "compute": "int",
                "activation": "ifmr",
                **IFMR,
                "activation_bits": 8,
                "activation_symmetric": kind == "Conv3d",
                "weight": "arq",
                "weight_bits": 8,
                "weight_per_channel": kind not in ("Linear", "AvgPool2d"),
                "balance": None,
            }
        },
    )


@pytest.mark.parametrize("layer", ["logits", "big", "vol_end", "share1", "share2"])
def test_what_cannot_be_quantized_stays_in_float_without_a_word(layer: str) -> None:
    found = explained(load_recipe("batch_num: 1\n"))
    assert {d.node: d.settings.compute for d in found.layers}[layer] == "float32"
    assert not [n for n in found.notes if layer in n.message]


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ("", {}),
        ("ifmr_quantize { }", {"activation": "ifmr", **IFMR, "activation_bits": 8}),
        ("ifmr_quantize : { search_range_start : 0.3 }", {"search_range": (0.3, 1.3)}),
        ("ifmr_quantize { search_range_end: 1.7 }", {"search_range": (0.7, 1.7)}),
        ("ifmr_quantize { search_step: 0.6 }", {"search_step": 0.6}),
        ("ifmr_quantize { max_percentile: 0.9 }", {"max_percentile": 0.9}),
        ("ifmr_quantize { min_percentile: 1 }", {"min_percentile": 1.0}),
        ("ifmr_quantize { asymmetric: false }", {"activation_symmetric": True}),
        ("ifmr_quantize { dst_type: INT16 }", {"activation_bits": 16}),
        ("ifmr_quantize { dst_type: INT8 }", {"activation_bits": 8}),
        ("ifmr_quantize { dst_type: 2 }", {"activation_bits": 16}),
        ("hfmg_quantize { }", {"activation": "hfmg", "bins": 4096}),
        ("hfmg_quantize { num_of_bins: 1024 }", {"activation": "hfmg", "bins": 1024}),
        ("hfmg_quantize { asymmetric: false dst_type: INT16 }", {"activation_bits": 16}),
        ("ifmr_quantize { num_bits: 8 }", {"activation_bits": 8}),
        ("ifmr_quantize { num_bits: 16 }", {"activation_bits": 16}),
        ("ifmr_quantize { num_bits: 4 }", {"activation_bits": 4}),
        ("hfmg_quantize { num_bits: 16 }", {"activation_bits": 16}),
        ("ifmr_quantize { num_bits: 16 dst_type: INT16 }", {"activation_bits": 16}),
        ("arq_quantize { }", {"weight": "arq", "weight_bits": 8, "weight_per_channel": True}),
        ("arq_quantize { channel_wise: false }", {"weight_per_channel": False}),
        ("arq_quantize { quant_bits: 4 }", {"weight_bits": 4}),
        ("arq_quantize { num_bits: 4 }", {"weight_bits": 4}),
        ("arq_quantize { quant_bits: 6 }", {"weight_bits": 6}),
        ("arq_quantize { quant_bits: 7 }", {"weight_bits": 7}),
        ("nuq_quantize { }", {"weight": "nuq", "levels": 32, "rounds": 1, "weight_bits": 8}),
        ("nuq_quantize { num_steps: 16 num_of_iteration: 0 }", {"levels": 16, "rounds": 0}),
        ("nuq_quantize { num_of_iteration: 5 }", {"levels": 32, "rounds": 5}),
        (
            "ada_quantize { }",
            {
                "weight": "ada",
                "iterations": 10000,
                "regularization": 0.01,
                "beta_range": (20.0, 2.0),
                "warm_start": 0.2,
                "weight_per_channel": True,
            },
        ),
        (
            "ada_quantize { num_iteration: 0 reg_param: 0.5 beta_range_start: 9 beta_range_end: 3 "
            "warm_start: 0.4 channel_wise: false }",
            {
                "iterations": 0,
                "regularization": 0.5,
                "beta_range": (9.0, 3.0),
                "warm_start": 0.4,
                "weight_per_channel": False,
            },
        ),
        ("arq_quantize { } nuq_quantize { }", {"weight": "nuq"}),
        ("dmq_balancer { }", {"balance": 0.5}),
        ("dmq_balancer { migration_strength: 0.2 }", {"balance": 0.2}),
        ("dmq_balancer { migration_strength: 0.8 }", {"balance": 0.8}),
    ],
)
@pytest.mark.parametrize("level", [common, lambda b: by_type("Conv2D", b), lambda b: by_name("conv", b)],
                         ids=["common", "type", "name"])  # fmt: skip
def test_a_block_says_the_same_at_every_level(
    level: Any, block: str, wanted: dict[str, Any]
) -> None:
    accept(level(block), {"conv": {"compute": "int", **wanted}})


def test_a_narrower_block_replaces_a_wider_one_whole() -> None:
    text = (
        common(
            "ifmr_quantize { search_step: 0.02 dst_type: INT16 } arq_quantize { quant_bits: 7 } dmq_balancer { }"
        )
        + by_type("Conv2D", "hfmg_quantize { num_of_bins: 2048 }")
        + by_name("conv", "arq_quantize { quant_bits: 6 }")
    )
    accept(
        text,
        {
            "dw": {"search_step": 0.02, "activation_bits": 16, "weight_bits": 7, "balance": 0.5},
            "point": {"activation": "hfmg", "bins": 2048, "activation_bits": 8, "weight_bits": 8, "balance": None},
            "conv": {"activation": "ifmr", **IFMR, "activation_bits": 8, "weight_bits": 6, "balance": None},
        },
    )  # fmt: skip


OFFSET = "activation_offset: {}\n"


@pytest.mark.parametrize(
    ("text", "symmetric"),
    [
        ("activation_offset: true\n", False),
        ("activation_offset: false\n", True),
        ("activation_offset: false\n" + common("ifmr_quantize { asymmetric: true }"), False),
        ("activation_offset: true\n" + common("hfmg_quantize { asymmetric: false }"), True),
        # a block without the flag: that of the common one, if the algorithm is the same
        (common("ifmr_quantize { asymmetric: false }") + by_name("conv", "ifmr_quantize { }"), True),
        (common("ifmr_quantize { asymmetric: false }") + by_name("conv"), True),
        (common("hfmg_quantize { asymmetric: false }") + by_name("conv", "ifmr_quantize { }"), False),
        (common("hfmg_quantize { asymmetric: false }") + by_name("conv"), False),
        (common("hfmg_quantize { asymmetric: false }") + by_type("Conv2D", "hfmg_quantize { }"), True),
        # and otherwise activation_offset
        ("activation_offset: false\n" + common("ifmr_quantize { asymmetric: true }")
         + by_name("conv", "hfmg_quantize { }"), True),
        ("activation_offset: false\n" + by_name("conv", "ifmr_quantize { asymmetric: true }"), False),
        ("activation_offset: true\n" + common("ifmr_quantize { asymmetric: true }")
         + by_type("Conv2d", "ifmr_quantize { asymmetric: true }")
         + by_name("conv", "ifmr_quantize { asymmetric: false }"), True),
        ("activation_offset: true\n" + by_type("Conv2d", "ifmr_quantize { asymmetric: false }")
         + by_name("conv", "ifmr_quantize { }"), False),
    ],
)  # fmt: skip
def test_which_flag_decides_whether_activations_are_symmetric(text: str, symmetric: bool) -> None:
    assert resolved(text, "conv")["activation_symmetric"] is symmetric


@pytest.mark.parametrize(
    ("block", "layers"),
    [
        (
            "arq_quantize { channel_wise: true }",
            {"fc": False, "mm": False, "pool": False, "conv": True},
        ),
        (
            "arq_quantize { quant_bits: 7 }",
            {"up": 8, "seq": 8, "fc": 8, "vol": 8, "pool": 8, "dw": 7},
        ),
        (
            "ifmr_quantize { dst_type: INT16 }",
            {"pool": 8, "vol": 8, "fc_bare": 8, "fc": 16, "mm": 16, "up": 16},
        ),
        ("ifmr_quantize { asymmetric: true }", {"vol": True, "conv": False}),
        ("dmq_balancer { }", {"pool": None, "lstm_y": 0.0, "fc": 0.5, "dw": 0.5, "up": 0.5}),
        (
            "nuq_quantize { }",
            {"dw": "arq", "grouped": "arq", "dilated": "arq", "up": "arq", "fc": "nuq"},
        ),
        (
            "ada_quantize { }",
            {"seq": "arq", "vol": "arq", "up": "ada", "fc": "ada", "conv": "ada"},
        ),
    ],
)
def test_a_common_setting_gives_way_where_it_does_not_fit_and_an_own_one_is_refused(
    block: str, layers: dict[str, Any]
) -> None:
    field = {
        "channel_wise": "weight_per_channel",
        "quant_bits": "weight_bits",
        "dst_type": "activation_bits",
        "asymmetric": "activation_symmetric",
        "dmq_balancer": "balance",
        "nuq_quantize": "weight",
        "ada_quantize": "weight",
    }[
        next(
            w
            for w in ("channel_wise", "quant_bits", "dst_type", "asymmetric", *block.split())
            if w in block
        )
    ]
    for layer, value in layers.items():
        assert (resolved(common(block), layer).get(field) or None) == (value or None), layer
        fits = explained_without_note(block, layer)
        if fits:
            accept(by_name(layer, block), {layer: {field: value}})
        else:
            refuse(by_name(layer, block), V, f"in layer {layer}")


def explained_without_note(block: str, layer: str) -> bool:
    notes = explained(load_recipe(common(block))).notes
    return not any(f"'{layer}'" in n.message for n in notes)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("Conv2d", {"conv", "dw", "grouped", "dilated", "point"}),
        ("Conv2D", {"conv", "grouped", "dilated", "point"}),
        ("DepthwiseConv2dNative", {"dw"}),
        ("Convolution", {"conv", "dw", "grouped", "dilated", "point", "seq", "vol"}),
        ("Conv", {"conv", "dw", "grouped", "dilated", "point", "seq", "vol"}),
        ("Conv1d", {"seq"}),
        ("Conv3d", {"vol"}),
        ("Conv3D", {"vol"}),
        ("ConvTranspose2d", {"up"}),
        ("Conv2DBackpropInput", {"up"}),
        ("ConvTranspose1d", {"seq_end"}),
        ("ConvTranspose", {"up", "seq_end"}),
        ("Deconvolution", {"up", "seq_end"}),
        ("Linear", {"fc", "fc_bare", "mm"}),
        ("InnerProduct", {"fc", "fc_bare", "mm"}),
        ("Gemm", {"fc", "fc_bare"}),
        ("MatMul", {"mm"}),
        ("BatchMatMulV2", {"mm"}),
        ("AvgPool2d", {"pool"}),
        ("AvgPool", {"pool"}),
        ("Pooling", {"pool"}),
        ("AveragePool", {"pool"}),
        ("LSTM", {"lstm_y"}),
        ("GRU", {"gru_y"}),
    ],
)
def test_types_in_every_editions_spelling(kind: str, layers: set[str]) -> None:
    found = explained(load_recipe(f'skip_layer_types: "{kind}"\n')).layers
    skipped = {d.node for d in found if d.node in LAYERS and d.settings.compute == "float32"}
    assert skipped == layers


def test_skipping_beats_a_block_of_its_own() -> None:
    text = 'skip_layers: "conv"\n' + by_name("conv", "arq_quantize { quant_bits: 6 }")
    accept(text, {"conv": {"compute": "float32"}, "dw": {"compute": "int"}})


def test_global_fields_of_the_whole_model() -> None:
    said = load_recipe(
        "batch_num : 3 joint_quant : true do_fusion : false skip_fusion_layers : 'conv' version: 1\n"
        "fakequant_precision_mode: FORCE_FP16_QUANT skip_approximation_layers: 'x' # done\n"
    )
    assert (said.calibration.batch_num, said.joint, said.scale_format) == (3, True, "float16")
    assert (said.fusion.batch_norm, said.fusion.skip) == (False, ("conv",))
    assert any("approximation" in n.message for n in said.notes)
    plain = load_recipe("version: 1\n")
    assert (plain.calibration.batch_num, plain.joint, plain.scale_format) == (1, False, "float32")


@pytest.mark.parametrize(
    ("section", "algorithm", "symmetric"),
    [
        ("", "ifmr", False),
        ("ifmr_quantize { search_step: 0.02 }", "ifmr", False),
        ("ifmr_quantize { asymmetric: false }", "ifmr", True),
        ("hfmg_quantize { num_of_bins: 8192 }", "hfmg", True),
    ],
)
def test_a_tensor(section: str, algorithm: str, symmetric: bool) -> None:
    """Of a common block for hfmg that is symmetric, the hfmg of a tensor takes the flag."""
    text = common("hfmg_quantize { asymmetric: false }") + (
        f'tensor_quantize {{ layer_name: "maxp" input_index: 0 {section} }}\n'
    )
    found = {u: d for d in planned(load_recipe(text)).activations for u in d.users}["maxp", 0]
    assert (found.algorithm.name, found.spec.symmetric) == (algorithm, symmetric)


def test_tensors_are_enough_when_every_layer_is_skipped() -> None:
    skips = "".join(f'skip_layer_types: "{t}"\n' for t in sorted(set(LAYERS.values())))
    refuse(skips, V, "Nothing is left to quantize")
    plan = planned(load_recipe(skips + 'tensor_quantize { layer_name: "maxp" input_index: 0 }\n'))
    assert [d.users for d in plan.activations] == [(("maxp", 0),)]


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("batch_num: 0", V, "batch_num is 0; it is 1 or more"),
        ("batch_num: -1", V, "batch_num is -1"),
        ("batch_num: 1.5", T, "batch_num is 1.5; it is a whole number"),
        ('batch_num: "2"', T, 'batch_num is "2"'),
        ("activation_offset: 3", T, "activation_offset is 3; it is true or false"),
        ("joint_quant: yes", T, "joint_quant is yes"),
        ("do_fusion: 'x'", T, "do_fusion is 'x'"),
        ("skip_layers: conv", T, "skip_layers[0] is conv; it is a text in quotes"),
        ('skip_layers: "cnov"', V, "Did you mean 'conv'?"),
        ('skip_layers: "relu"', V, "'relu' is a Relu, which is not quantized"),
        ('skip_layers: "conv" skip_layers: "conv"', V, "'conv' stands twice"),
        ('skip_layer_types: "ReLU"', V, "Did you mean 'Relu'"),
        ('skip_layer_types: "Relu"', V, "not quantized"),
        ('skip_layer_types: "Gelu"', V, "type 'Gelu' is not quantized"),
        ('skip_layer_types: "Nothing"', V, "Unknown operator type 'Nothing'. Layers are of type"),
        ('skip_layer_types: "Linear" skip_layer_types: "Linear"', V, "'Linear' stands twice"),
        ('skip_fusion_layers: "cnov"', V, "skip_fusion_layers names 'cnov', which is not in"),
        ('skip_fusion_layers: "relu"', V, "skip_fusion_layers names 'relu', which is a Relu"),
        ('skip_fusion_layers: "conv" skip_fusion_layers: "conv"', V, "'conv' stands twice"),
        ("fakequant_precision_mode: FP16", V, "it is one of DEFAULT, FORCE_FP16_QUANT"),
        ("version: 2", V, "version is 2; it is 1"),
        ("version: 1 batch_nun: 2", V, "Did you mean 'batch_num'?"),
        (common("arq_quantise { }"), V, "Did you mean 'arq_quantize'"),
        (common("arq_quantize { bits: 7 }"), V, "common_config.arq_quantize.bits is not known"),
        (common("arq_quantize { quant_bits: 5 }"), V, "quant_bits is 5; it is 4, 6, 7 or 8"),
        (common("arq_quantize { num_bits: 16 }"), V, "num_bits is 16; it is 4, 6, 7 or 8"),
        (common("arq_quantize { num_bits: 8 quant_bits: 4 }"), V, "num_bits is 8; quant_bits says 4"),
        (common("ifmr_quantize { num_bits: 5 }"), V, "num_bits is 5; it is 4, 8 or 16"),
        (common("ifmr_quantize { num_bits: 8 dst_type: INT16 }"), V, "num_bits is 8; dst_type says 16"),
        (common("ifmr_quantize { } hfmg_quantize { }"), V, "ifmr_quantize and hfmg_quantize exclude"),
        (by_name("conv", "hfmg_quantize { } ifmr_quantize { }"), V,
         "hfmg_quantize and ifmr_quantize exclude each other in override_layer_configs[0].calib"),
        ('skip_fusion_layers: "fc"', V, "skip_fusion_layers names 'fc', which is a"),
        ('skip_fusion_layers: "up"', V, "skip_fusion_layers names 'up', which is a ConvTranspose"),
        ("weight_offset: true", V, "weight_offset is true; it is false: weights have no offset"),
        (common("arq_quantize { quant_bits: INT7 }"), T, "quant_bits is INT7; it is a whole number"),
        (common("arq_quantize { channel_wise: 2 }"), T, "channel_wise is 2"),
        (common("ifmr_quantize { dst_type: INT4 }"), V, "it is one of INT8, INT16"),
        (common("ifmr_quantize { max_percentile: 0.5 }"), V, "max_percentile is 0.5; it lies in (0.5, 1]"),
        (common("ifmr_quantize { min_percentile: 1.1 }"), V, "min_percentile is 1.1"),
        (common("ifmr_quantize { search_step: 0 }"), V, "search_step is 0.0; it lies in (0, 0.6]"),
        (common("ifmr_quantize { search_step: 0.61 }"), V, "search_step is 0.61"),
        (common("ifmr_quantize { search_range_start: 0 }"), V, "search_range_start is 0.0; it is above 0"),
        (common("ifmr_quantize { search_range_start: 1.4 }"), V, "search_range_end is 1.3; it is above"),
        (common("hfmg_quantize { num_of_bins: 3000 }"), V, "num_of_bins is 3000; it is 1024, 2048"),
        (common("hfmg_quantize { max_percentile: 1 }"), V, "hfmg_quantize.max_percentile is not known"),
        (common("nuq_quantize { num_steps: 24 }"), V, "num_steps is 24; it is 16 or 32"),
        (common("nuq_quantize { num_of_iteration: 6 }"), V, "num_of_iteration is 6"),
        (common("dmq_balancer { migration_strength: 0.1 }"), V, "migration_strength is 0.1; it lies in [0.2"),
        (common("dmq_balancer { migration_strength: 0.9 }"), V, "migration_strength is 0.9"),
        (common("ada_quantize { reg_param: 1 }"), V, "reg_param is 1.0; it lies in (0, 1)"),
        (common("ada_quantize { warm_start: 0 }"), V, "warm_start is 0.0"),
        (common("ada_quantize { beta_range_start: 1 }"), V, "it is above beta_range_end, which is 2.0"),
        ("nuq_config { nuq_quantize { } }", V, "nuq_config.mapping_file is missing"),
        ("nuq_config { mapping_file: 3 }", T, "mapping_file is 3; it is a text in quotes"),
        ('nuq_config { mapping_file: "gone.json" }', V, "mapping file 'gone.json' does not exist"),
        ("override_layer_configs { calibration_config { } }", V, "layer_name is missing"),
        ('override_layer_configs { layer_name: "conv" }', V, "calibration_config is missing"),
        ("override_layer_types { calibration_config { } }", V, "layer_type is missing"),
        (by_name("cnov"), V, "Did you mean 'conv'?"),
        (by_name("relu"), V, "'relu' is a Relu, which is not quantized"),
        (by_name("logits"), V, "its input is transposed"),
        (by_name("conv") * 2, V, "'conv' has a block already"),
        (by_type("Conv2D") * 2, V, "'Conv2D' has a block already"),
        (by_type("Foo"), V, "Unknown operator type 'Foo'"),
        (by_type("MaxPool"), V, "not quantized"),
        (by_type("Linear", "arq_quantize { channel_wise: true }"), V, "channel_wise: weight per channel"),
        (by_type("AvgPool", "dmq_balancer { }"), V, "in layer pool"),
        (by_type("Conv3d", "ifmr_quantize { asymmetric: true }"), V, "in layer vol"),
        ("tensor_quantize { input_index: 0 }", V, "layer_name is missing"),
        ('tensor_quantize { layer_name: "maxp" }', V, "input_index is missing"),
        ('tensor_quantize { layer_name: "maxp" input_index: -1 }', V, "input_index is -1"),
        ('tensor_quantize { layer_name: "maxp" input_index: 1 }', V, "'maxp' has no input 1"),
        ('tensor_quantize { layer_name: "conv" input_index: 0 }', V, "MaxPool or Add alone"),
        ('tensor_quantize { layer_name: "add" input_index: 0 } tensor_quantize { layer_name: "add" input_index: 1 }',
         V, "asks for input 1 after input 0"),
        ("common_config { arq_quantize { }", V, 'this is not valid protobuf text: Expected "}"'),
        ("batch_num: 1 batch_num 2", V, "this is not valid protobuf text"),
    ],
)  # fmt: skip
def test_what_is_refused_with_line_and_column(
    text: str, error: type[ConfigError], says: str
) -> None:
    refuse("# a comment\n" + text, error, says)
    with pytest.raises(error, match=r"^the configuration:[23](:\d+)?[: ]"):
        explained(load_recipe("# a comment\n" + text))

"""The calibration file of the older Ascend converter, field by field (docs/reference/ascend-configurations.md)."""

from __future__ import annotations

from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigError, ConfigTypeError, ConfigValueError
from tests.dialects.conformance._case import accept, refuse

T, V = ConfigTypeError, ConfigValueError

SOURCE = '{ input_type: BINARY input_file_path: "data.bin" }'
SEARCH = {
    "bins": 150,
    "start_ratio": 0.7,
    "end_ratio": 1.3,
    "step_ratio": 0.01,
    "max_percentile": 1.0,
}


def text(sources: int = 4, **fields: str | None) -> str:
    """Return a file with the fields that are required, for the four inputs of the model."""
    base = {"device": "USE_CPU", "quantize_algo": "HALF_OFFSET", "weight_type": "VECTOR_TYPE"}
    said = {k: v for k, v in {**base, **fields}.items() if v is not None}
    lines = [f"{k}: {v}\n" for k, v in said.items()]
    return "".join([*lines, *[f"preprocess_parameter: {SOURCE}\n"] * sources])


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"activation": "kl", **SEARCH, "activation_symmetric": False, "weight": "arq",
              "weight_per_channel": True, "activation_bits": 8, "weight_bits": 8}),
        ({"quantize_algo": "NON_OFFSET"}, {"activation_symmetric": True, "weight_per_channel": True}),
        ({"weight_type": "SCALAR_TYPE"}, {"activation_symmetric": False, "weight_per_channel": False}),
        ({"type": "KL"}, {"activation": "kl", **SEARCH}),
        ({"type": "SYMKL"}, {"activation": "symkl", **SEARCH}),
        ({"type": "JSD"}, {"activation": "jsd", **SEARCH}),
        ({"bin": "0"}, {"bins": 150}),
        ({"bin": "16"}, {"bins": 16}),
        ({"bin": "250"}, {"bins": 250}),
        ({"start_ratio": "0.3", "end_ratio": "1.7"}, {"start_ratio": 0.3, "end_ratio": 1.7, "step_ratio": 0.01}),
        ({"step_ratio": "0.6"}, {"step_ratio": 0.6}),
        ({"max_percentile": "PERCENTILE_HIGH"}, {"max_percentile": 1.0}),
        ({"max_percentile": "PERCENTILE_MID"}, {"max_percentile": 0.99999}),
        ({"max_percentile": "PERCENTILE_LOW"}, {"max_percentile": 0.9999}),
        ({"max_percentile": "0.99999"}, {"max_percentile": 0.99999}),
        ({"max_percentile": "1"}, {"max_percentile": 1.0}),
    ],
)  # fmt: skip
def test_a_field_and_what_it_resolves_to(fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    accept(text(**fields), {"conv": {"compute": "int", **wanted}})


def test_convolutions_and_dense_layers_are_quantized_and_no_others() -> None:
    layers = {n: {"compute": "int"} for n in ("conv", "dw", "fc", "mm", "seq")}
    others = {n: {"compute": "float32"} for n in ("pool", "up", "seq_end", "lstm_y")}
    accept(text(), layers | others)


def test_an_excluded_operator_stays_in_float_and_may_be_any_that_is_there() -> None:
    accept(text(exclude_op='"conv"'), {"conv": {"compute": "float32"}, "dw": {"compute": "int"}})
    accept(text(exclude_op='"relu"'), {"conv": {"compute": "int"}})


def test_data_of_each_input_and_how_much_of_it() -> None:
    image = (
        '{ input_type: IMAGE image_format: BGR input_file_path: "calib/" mean_value: 104.0 '
        "mean_value: 117.0 mean_value: 123.0 standard_deviation: 1.5 }"
    )
    recipe = load_recipe(text(sources=1, batch_count="20") + f"preprocess_parameter: {image}\n")
    assert (recipe.calibration.batch_num, recipe.calibration.batch_size) == (20, 1)
    first, second = recipe.calibration.sources
    assert (first.path, first.kind, first.mean, first.std) == ("data.bin", "numbers", (), ())
    assert (second.path, second.kind, second.color) == ("calib/", "images", "BGR")
    assert (second.mean, second.std) == ((104.0, 117.0, 123.0), (1.5,))


def test_one_image_is_taken_with_a_remark() -> None:
    recipe = load_recipe(text(batch_count="1"))
    assert recipe.calibration.batch_num == 1
    assert any("One image is little" in n.message for n in recipe.notes)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"device": None}, V, "device is missing"),
        ({"device": "USE_GPU"}, V, "device is USE_GPU; it is one of USE_CPU"),
        ({"quantize_algo": None}, V, "quantize_algo is missing"),
        ({"quantize_algo": "FULL_OFFSET"}, V, "It is HALF_OFFSET"),
        ({"quantize_algo": "HALFOFFSET"}, V, "Did you mean 'HALF_OFFSET'"),
        ({"weight_type": None}, V, "weight_type is missing"),
        ({"weight_type": "VECTOR"}, V, "it is one of SCALAR_TYPE, VECTOR_TYPE"),
        ({"bin": "15"}, V, "bin is 15; it is 16 or more, or 0 for 150"),
        ({"bin": "-1"}, V, "bin is -1"),
        ({"bin": "150.5"}, T, "bin is 150.5; it is a whole number"),
        ({"type": "MSE"}, V, "type is MSE; it is one of KL, SYMKL, JSD"),
        ({"start_ratio": "0"}, V, "start_ratio is 0.0; it is above 0"),
        ({"start_ratio": "1.4"}, V, "end_ratio is 1.3; it is above start_ratio, which is 1.4"),
        ({"end_ratio": "0.7"}, V, "end_ratio is 0.7"),
        ({"step_ratio": "0"}, V, "step_ratio is 0.0"),
        ({"step_ratio": "0.61"}, V, "step_ratio is 0.61; it is at most end_ratio - start_ratio"),
        ({"max_percentile": "0.5"}, V, "max_percentile is 0.5; it lies in (0.5, 1]"),
        ({"max_percentile": "1.1"}, V, "max_percentile is 1.1"),
        ({"max_percentile": "PERCENTILE_MIT"}, V, "Did you mean 'PERCENTILE_MID'"),
        ({"max_percentile": '"x"'}, T, 'max_percentile is "x"; it is a number or PERCENTILE_HIGH'),
        ({"batch_count": "0"}, V, "batch_count is 0; it is 1 or more"),
        ({"batch_count": "1.5"}, T, "batch_count is 1.5"),
        ({"exclude_op": '"cnov"'}, V, "Did you mean 'conv'?"),
        ({"exclude_op": '"conv" exclude_op: "conv"'}, V, "'conv' stands twice"),
        ({"bins": "150"}, V, "Did you mean 'bin'?"),
        ({"sources": 0}, V, "preprocess_parameter is missing"),
        ({"sources": 3}, V, "names data for 3 inputs, and the model has 4"),
    ],
)
def test_a_field_is_refused(fields: dict[str, Any], error: type[ConfigError], says: str) -> None:
    refuse(text(**fields), error, says)


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ('{ input_file_path: "a" }', V, "input_type is missing"),
        ("{ input_type: BINARY }", V, "input_file_path is missing"),
        ('{ input_type: TEXT input_file_path: "a" }', V, "it is one of IMAGE, BINARY"),
        ('{ input_type: BINARY image_format: BGR input_file_path: "a" }', V, "it is for input_type IMAGE"),
        ('{ input_type: IMAGE image_format: XYZ input_file_path: "a" }', V, "it is one of RGB, BGR, GRAY"),
        ('{ input_type: BINARY input_file_path: "a" standard_deviation: 0 }', V, "standard_deviation[0] is 0.0"),
        ('{ input_type: IMAGE image_format: BGR input_file_path: "a" mean_value: 1 mean_value: 2 }', V,
         "mean_value is [1.0, 2.0]; it has one value, or one for each of 3"),
        ("{ input_type: BINARY input_file_path: 3 }", T, "input_file_path is 3; it is a text in quotes"),
    ],
)  # fmt: skip
def test_data_of_an_input_is_refused(source: str, error: type[ConfigError], says: str) -> None:
    refuse(text(sources=3) + f"preprocess_parameter: {source}\n", error, says)

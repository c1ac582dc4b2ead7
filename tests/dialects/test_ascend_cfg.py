from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import calibrant
from calibrant.dialects import load_recipe
from calibrant.dialects.ascend import cfg as ascend_cfg
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.recipe import AlgorithmChoice, Recipe, Source
from tests.dialects._help import GOLDEN, options, settings
from tests.models import NETS

FILE = Path("cal.cfg")
REQUIRED = {
    "device": "USE_CPU",
    "quantize_algo": "HALF_OFFSET",
    "weight_type": "VECTOR_TYPE",
    "preprocess_parameter": '{ input_type: BINARY input_file_path: "calib/" }',
}


def load(**fields: str) -> Recipe:
    return ascend_cfg.load("\n".join(f"{k}: {v}" for k, v in (REQUIRED | fields).items()), FILE)


def found(**fields: str) -> Any:
    return settings(load(**fields))[0]["conv1"]


def test_the_sample_of_the_specification() -> None:
    recipe = load_recipe(GOLDEN / "ascend_half_offset.cfg")
    layers = settings(recipe)[0]
    assert layers["conv2"].activation == AlgorithmChoice.of(
        "kl",
        {
            "bins": 150,
            "start_ratio": 0.7,
            "end_ratio": 1.3,
            "step_ratio": 0.01,
            "max_percentile": 0.99999,
        },
    )
    assert layers["conv2"].activation_symmetric is False
    assert layers["conv2"].weight == AlgorithmChoice("arq")
    assert layers["conv2"].weight_per_channel is True
    assert layers["conv1"].compute == "float32"
    assert recipe.calibration.batch_num == 10
    assert recipe.calibration.behind == "weights"
    assert recipe.calibration.sources == (
        Source(path="calib/", kind="images", color="BGR", mean=(104.0, 117.0, 123.0), std=(1.0,)),
    )
    assert recipe.target == "layers-only"


def test_defaults() -> None:
    s = found()
    assert s.activation == AlgorithmChoice.of(
        "kl",
        {
            "bins": 150,
            "start_ratio": 0.7,
            "end_ratio": 1.3,
            "step_ratio": 0.01,
            "max_percentile": 1.0,
        },
    )
    assert (s.activation_bits, s.weight_bits) == (8, 8)


@pytest.mark.parametrize(("text", "name"), [("KL", "kl"), ("SYMKL", "symkl"), ("JSD", "jsd")])
def test_divergences(text: str, name: str) -> None:
    assert found(type=text).activation.name == name


@pytest.mark.parametrize(
    ("field", "text", "option", "value"),
    [
        ("bin", "200", "bins", 200),
        ("bin", "0", "bins", 150),
        ("start_ratio", "0.3", "start_ratio", 0.3),
        ("end_ratio", "1.7", "end_ratio", 1.7),
        ("step_ratio", "0.05", "step_ratio", 0.05),
        ("max_percentile", "0.999", "max_percentile", 0.999),
        ("max_percentile", "PERCENTILE_MID", "max_percentile", 0.99999),
        ("max_percentile", "PERCENTILE_HIGH", "max_percentile", 1.0),
        ("max_percentile", "PERCENTILE_LOW", "max_percentile", 0.9999),
    ],
)
def test_options_of_the_search(field: str, text: str, option: str, value: float) -> None:
    assert options(found(**{field: text}))[option] == value


def test_offsets_and_vectors() -> None:
    assert found(quantize_algo="HALF_OFFSET").activation_symmetric is False
    assert found(quantize_algo="NON_OFFSET").activation_symmetric is True
    assert found(weight_type="VECTOR_TYPE").weight_per_channel is True
    assert found(weight_type="SCALAR_TYPE").weight_per_channel is False


def test_excluded_operators() -> None:
    layers = settings(load(exclude_op='"conv1" exclude_op: "conv3"'))[0]
    assert [n for n, s in layers.items() if n.startswith("conv") and s.compute != "int"] == [
        "conv1",
        "conv3",
    ]
    with pytest.raises(
        ConfigValueError, match=r"cal.cfg:5 exclude_op 'conv_1': .*Did you mean 'conv1'"
    ):
        settings(load(exclude_op='"conv_1"'))


def test_convolutions_and_fully_connected_layers_alone() -> None:
    layers = settings(load(), "pools")[0]
    assert layers["avg1"].compute == "float32"
    assert layers["y"].compute == "int"
    transposed = settings(load(), "conv_transpose")[0]
    kinds = {s.compute for n, s in transposed.items() if "up" in n or "deconv" in n}
    assert "int" not in kinds


def test_images_that_are_counted() -> None:
    recipe = load(batch_count="20")
    assert (recipe.calibration.batch_size, recipe.calibration.batch_num) == (1, 20)
    assert load().calibration.batch_num is None
    assert "little data" in load(batch_count="1").notes[-1].message


def test_inputs_of_both_kinds() -> None:
    recipe = load(
        preprocess_parameter='{ input_type: IMAGE image_format: RGB input_file_path: "a" mean_value: 1 }\n'
        'preprocess_parameter: { input_type: BINARY input_file_path: "b.bin" }'
    )
    assert recipe.calibration.sources == (
        Source(path="a", kind="images", color="RGB", mean=(1.0,)),
        Source(path="b.bin", kind="numbers"),
    )


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"device": "USE_GPU"}, ConfigValueError, "it is one of USE_CPU"),
        ({"quantize_algo": "FULL_OFFSET"}, ConfigValueError, "weights have no offset"),
        ({"quantize_algo": "OFFSET"}, ConfigValueError, "it is one of NON_OFFSET, HALF_OFFSET"),
        ({"weight_type": "VECTOR"}, ConfigValueError, "Did you mean 'VECTOR_TYPE'"),
        ({"type": "MSE"}, ConfigValueError, "it is one of KL, SYMKL, JSD"),
        ({"bin": "8"}, ConfigValueError, "bin is 8; it is 16 or more, or 0 for 150"),
        ({"bin": "-1"}, ConfigValueError, "bin is -1"),
        ({"bin": "1.5"}, ConfigTypeError, "it is a whole number"),
        ({"start_ratio": "0"}, ConfigValueError, "start_ratio is 0.0; it is above 0"),
        ({"start_ratio": "1.3"}, ConfigValueError, "end_ratio is 1.3; it is above start_ratio, which is 1.3"),
        ({"step_ratio": "0"}, ConfigValueError, "step_ratio is 0.0; it is above 0"),
        ({"step_ratio": "0.61"}, ConfigValueError, "at most end_ratio - start_ratio"),
        ({"max_percentile": "0.5"}, ConfigValueError, "it lies in (0.5, 1]"),
        ({"max_percentile": "PERCENTILE_TOP"}, ConfigValueError, "or PERCENTILE_HIGH, PERCENTILE_MID"),
        ({"batch_count": "0"}, ConfigValueError, "it is 1 or more"),
        ({"exclude_op": '"a" exclude_op: "a"'}, ConfigValueError, "'a' stands twice"),
        ({"preprocess_parameter": "{ input_type: IMAGE }"}, ConfigValueError, "input_file_path is missing"),
        ({"preprocess_parameter": '{ input_file_path: "a" }'}, ConfigValueError, "input_type is missing"),
        ({"preprocess_parameter": '{ input_type: TEXT input_file_path: "a" }'}, ConfigValueError, "IMAGE, BINARY"),
        ({"preprocess_parameter": '{ input_type: IMAGE image_format: BGR input_file_path: "a" mean_value: 1 mean_value: 2 }'},
         ConfigValueError, "mean_value is [1.0, 2.0]; it has one value, or one for each of 3"),
        ({"preprocess_parameter": '{ input_type: IMAGE input_file_path: "a" standard_deviation: 0 }'},
         ConfigValueError, "it is above 0"),
        ({"preprocess_parameter": '{ input_type: BINARY image_format: BGR input_file_path: "a" }'},
         ConfigValueError, "image_format is 'BGR'; it is for input_type IMAGE alone"),
        ({"quantise": "1"}, ConfigValueError, "quantise is not known"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    fields: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        load(**fields)
    assert message in str(e.value)
    assert str(e.value).startswith("cal.cfg")


@pytest.mark.parametrize("missing", REQUIRED)
def test_what_is_required(missing: str) -> None:
    text = "\n".join(f"{k}: {v}" for k, v in REQUIRED.items() if k != missing)
    with pytest.raises(ConfigValueError, match=f"{missing} is missing"):
        ascend_cfg.load(text, FILE)


def test_a_run_uses_what_is_asked_for() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    done = calibrant.quantize(model, feeds(batch=4), load(type="JSD", exclude_op='"conv2"'))
    assert {d.algorithm.name for d in done.plan.activations} == {"jsd"}
    assert {d.node for d in done.plan.layers if not d.quantized} == {"conv2"}

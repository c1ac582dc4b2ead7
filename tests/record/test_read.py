"""What a record may say, and what happens with one that is damaged or of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import calibrant
from calibrant.cli import main
from calibrant.errors import (
    CalibrantError,
    ConfigError,
    ConfigRuntimeError,
    ConfigValueError,
    ModelError,
    UnsupportedError,
)
from calibrant.rebuild import quantize_from_record
from calibrant.record.entries import record_text
from calibrant.record.read import read_record
from tests.models import NETS
from tests.road import TARGETS, batches, outputs, quantized

W = np.array([[[[1.0]], [[-0.6]]], [[[0.5]], [[2.0]]]], np.float32)  # (2, 2, 1, 1)
B = np.array([0.3, -0.7], np.float32)


def one_conv() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv1")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def text(**fields: Any) -> str:
    said = {
        "scale_d": 0.5,
        "offset_d": -3,
        "scale_w": [0.01, 0.02],
        "offset_w": [0, 0],
        **fields,
    }
    return record_text({"conv1": {k: v for k, v in said.items() if v is not None}})


def quantizer(**change: Any) -> str:
    said = {
        "id": "x",
        "tensor": "x",
        "users": [["conv1", 0]],
        "producer": None,
        "bits": 8,
        "scale": 0.5,
        "zero_point": 0,
    }
    return json.dumps({"quantizer": {**said, **change}})


HAND = """
# by hand
record {
  value {
    wts_type: "INT8"  act_type: 'INT8'
    offset_w: 0  offset_w: 0
    scale_w: 0.01 scale_w: 0.02
    scale_d: 9   # the last one counts
    scale_d: 0.5
    offset_d: -3
  }
  key: "conv1"
}
"""


def test_a_record_written_by_hand_gives_the_numbers_computed_by_hand() -> None:
    result = quantize_from_record(one_conv(), HAND)
    x = np.array([1.3, -70.0], np.float32).reshape(1, 2, 1, 1)
    q = np.clip(np.round(x.ravel() / 0.5) - 3, -128, 127)  # 0, -128: clipped
    assert q.tolist() == [0.0, -128.0]
    x_hat = (q + 3) * 0.5
    w_q = np.array([[100, -60], [25, 100]])
    y = x_hat @ (w_q * np.array([[0.01], [0.02]])).T
    bias = np.round(B / (0.5 * np.array([0.01, 0.02]))) * 0.5 * np.array([0.01, 0.02])
    for model in (result.deploy, result.fake_quant):
        (found,) = outputs(model, {"x": x}, optimize=False)
        np.testing.assert_allclose(found.ravel(), y + bias, rtol=1e-5, atol=5e-3)
    assert result.params.layers["conv1"].values.reshape(2, 2).tolist() == w_q.tolist()
    assert result.summary["quality"]["outputs"] == {}


def test_the_same_as_json() -> None:
    content = {
        "conv1": {"scale_d": 0.5, "offset_d": -3, "scale_w": [0.01, 0.02], "offset_w": [0, 0]}
    }
    found = quantize_from_record(one_conv(), json.dumps(content))
    assert found.record.content()["conv1"] == {
        **content["conv1"],
        "act_type": "INT8",
        "wts_type": "INT8",
        "scale_d": 0.5,
        "scale_w": [np.float32(0.01), np.float32(0.02)],
    }


def test_fields_matter() -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2, 1, 1)

    def out(**fields: Any) -> np.ndarray:
        made = quantize_from_record(one_conv(), text(**fields))
        return outputs(made.deploy, {"x": x}, optimize=False)[0]

    base = out()
    for change in (
        {"scale_d": 0.6},
        {"offset_d": 127},
        {"scale_w": [0.1, 0.02]},
        {"scale_w": [0.3], "offset_w": [0]},
        {"wts_type": "INT4", "scale_w": [0.3, 0.3]},
        {"act_type": "INT16", "scale_d": 1e-3, "offset_d": -3000},
        {"dst_type": "INT16", "scale_d": 1e-3, "offset_d": -3000},
        {"tensor_balance_factor": [0.3, 1.7]},
        {"cluster": [0, *range(10, 25)]},
    ):
        assert (out(**change) != base).any(), change


def test_shift_bits_are_kept() -> None:
    made = quantize_from_record(one_conv(), text(shift_bit=[3, 4]))
    assert "shift_bit: 3\n    shift_bit: 4" in made.record.text()
    made = quantize_from_record(one_conv(), text(shift_bit=[0, 0]))
    assert made.record.entries["conv1"]["shift_bit"] == [0, 0]


BAD: list[tuple[dict[str, Any], type[CalibrantError], str]] = [
    ({"scale_d": None}, ConfigRuntimeError, r"layer 'conv1' has no scale_d"),
    (
        {"scale_d": 0.0},
        ConfigValueError,
        r"scale_d of layer 'conv1' is 0.0; it is finite and above 0",
    ),
    ({"scale_d": -1.0}, ConfigValueError, r"scale_d of layer 'conv1' is -1.0"),
    ({"scale_w": [1.0, float("inf")]}, ConfigValueError, r"scale_w of layer 'conv1' is inf"),
    (
        {"offset_d": -129},
        ConfigValueError,
        r"offset_d of layer 'conv1' is -129; it is in \[-128, 127\]",
    ),
    ({"offset_w": [0, 1]}, ConfigValueError, r"offset_w of layer 'conv1' is 1; it is 0"),
    (
        {"offset_w": None},
        ConfigValueError,
        r"offset_w of layer 'conv1' is 0 values; it is as many",
    ),
    ({"offset_w": [0]}, ConfigValueError, r"offset_w of layer 'conv1' is 1 values; it is as many"),
    ({"scale_w": [1.0] * 3, "offset_w": [0] * 3}, ConfigValueError, r"one for each of 2 channels"),
    ({"scale_w": None, "offset_w": None}, ConfigRuntimeError, r"has a weight, and no scale_w"),
    ({"tensor_balance_factor": [1.0]}, ConfigValueError, r"one for each input channel"),
    ({"tensor_balance_factor": [1e-9, 1.0]}, ConfigValueError, r"tensor_balance_factor of layer"),
    (
        {"cluster": [1, 2, 3]},
        ConfigValueError,
        r"cluster of layer 'conv1' is 3 values; it is 16 or 32",
    ),
    ({"cluster": [200] * 16}, ConfigValueError, r"cluster of layer 'conv1' is 200"),
    ({"shift_bit": [17, 1]}, ConfigValueError, r"shift_bit of layer 'conv1' is 17"),
    ({"shift_bit": [0, 1]}, ConfigValueError, r"shift_bit of layer 'conv1' is 0"),
    ({"act_type": "INT9"}, ConfigValueError, r"act_type is 'INT9'; it is INT4, INT8 or INT16"),
    (
        {"fakequant_precision_mode": "X"},
        ConfigValueError,
        r"'X'; it is DEFAULT or FORCE_FP16_QUANT",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_what_is_not_allowed(
    change: dict[str, Any], error: type[CalibrantError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "record.txt"
    path.write_text(text(**change))
    with pytest.raises(error, match=message) as caught:
        quantize_from_record(one_conv(), path)
    assert "record.txt:" in str(caught.value) or "record.txt" in str(caught.value)


def test_other_models_and_damaged_texts(tmp_path: Path) -> None:
    model = one_conv()
    with pytest.raises(ConfigValueError, match=r"no layer 'conv2'.*Did you mean 'conv1'"):
        quantize_from_record(model, text().replace("conv1", "conv2"))
    with pytest.raises(ConfigValueError, match=r"input 1 of layer 'conv1' .* is no activation"):
        quantize_from_record(model, text().replace("conv1", "conv1:1"))
    with pytest.raises(ConfigValueError, match=r"scale_e.* is not known.*Did you mean 'scale_w'"):
        quantize_from_record(model, text().replace("scale_d", "scale_e"))
    with pytest.raises(ConfigRuntimeError, match="has no entry"):
        quantize_from_record(model, "# nothing\n")
    (tmp_path / "record.txt").write_text(text())
    with pytest.raises(ConfigValueError, match=r"cannot be read.*Did you mean 'record.txt'"):
        quantize_from_record(model, tmp_path / "recrd.txt")
    with pytest.raises(ConfigValueError, match=r"3: this comment of calibrant's is no JSON"):
        quantize_from_record(model, f"\n\n# calibrant: {{oops\n{text()}")
    with pytest.raises(
        ConfigValueError, match=r"'targett' .* is not known.*Did you mean 'target'"
    ):
        quantize_from_record(model, f'# calibrant: {{"targett": "generic"}}\n{text()}')
    done = quantize_from_record(model, text())
    with pytest.raises(ModelError, match="already quantized"):
        quantize_from_record(done.deploy, text())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12),
        st.fixed_dictionaries(
            {
                "scale_d": st.floats(2.0**-90, 2.0**90, width=32),
                "offset_d": st.integers(-128, 127),
                "scale_w": st.lists(
                    st.floats(2.0**-90, 2.0**90, width=32), min_size=1, max_size=4
                ),
                "shift_bit": st.lists(st.integers(0, 16), max_size=3),
                "act_type": st.sampled_from(["INT8", "INT16"]),
                "skip_fusion": st.booleans(),
            }
        ),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_written_is_read(entries: dict[str, dict[str, Any]]) -> None:
    found = read_record("\n" + record_text(entries))
    assert list(found.entries) == list(entries)
    for key, entry in entries.items():
        value = found.entries[key].value
        assert [np.float32(v) for v in value.scale_d] == [np.float32(entry["scale_d"])]
        assert [np.float32(v) for v in value.scale_w] == [np.float32(v) for v in entry["scale_w"]]
        assert (value.offset_d, value.act_type) == ([entry["offset_d"]], entry["act_type"])
        assert (value.shift_bit, value.skip_fusion) == (entry["shift_bit"], entry["skip_fusion"])


def test_the_command_line_builds_from_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, feeds = NETS["conv_bn_relu"]()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    quantized("conv_bn_relu", "generic").save(tmp_path / "first")
    record = str(tmp_path / "first" / "record.txt")
    args = ["quantize", str(path), "--record", record, "--out", str(tmp_path / "again")]
    assert main(args) == 0
    assert "Not measured" in capsys.readouterr().out
    name = model.graph.input[0].name
    np.savez(tmp_path / "data.npz", **{name: batches(feeds)[0][name]})  # type: ignore[arg-type]
    assert main([*args, "--data", str(tmp_path / "data.npz")]) == 0
    assert "SQNR" in capsys.readouterr().out
    feed = feeds(batch=3, seed=2)
    for file in ("deploy.onnx", "fake_quant.onnx"):
        a, b = (outputs(tmp_path / run / file, feed) for run in ("first", "again"))
        np.testing.assert_array_equal(a[0], b[0])
    assert main([*args, "--bits", "16"]) == 5
    assert "--bits cannot be given beside it" in capsys.readouterr().err
    assert main([*args, "--no-equalize"]) == 5


def test_it_is_public() -> None:
    assert calibrant.quantize_from_record is quantize_from_record


@pytest.mark.parametrize(
    "mark", ["# calibrant: ", "#calibrant:", "  # Calibrant :  ", "## calibrant: "]
)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("[1]", "no JSON object"),
        ('{"equalized": {}}', "equalized.tensor: field required"),
        ('{"bias": {"layer": "conv1"}}', "bias.values: field required"),
        ('{"bias": {"layer": ["conv1"], "values": [1, 2]}}', "bias.layer: input should be"),
        ('{"bias": {"layer": "conv1", "values": [1]}}', "has 1 values .* 2 output channels"),
        (
            '{"bias": {"layer": "conv1", "values": [NaN, 1]}}',
            "bias.values.0: input should be a finite",
        ),
        (
            '{"bias": {"layer": "conv1", "values": [1e60, 1]}}',
            "bias.values.0: input should be less",
        ),
        (
            '{"bias": {"layer": "conv2", "values": [1, 1]}}',
            "layer 'conv2', which has no entry.*'conv1'",
        ),
        (
            '{"balanced": {"tensor": "x", "layers": [], "asked": true}}',
            "balanced.layers: list should",
        ),
        ('{"half": "conv1"}', "half: input should be a valid list"),
        ('{"fold": "x"}', "fold"),
        ('{"weight": {"layer": "conv1", "storage": "bogus"}}', "weight.storage: input should be"),
        (
            '{"rounding": {"layer": "conv1", "up": "???", "down": ""}}',
            "rounding of layer 'conv1' is damaged",
        ),
        ('{"quantizer": {"id": "x"}}', "quantizer.tensor: field required"),
        (quantizer(zero_point=999), r"zero_point is 999; it is in \[-128, 127\]"),
        (quantizer(axis=9, scale=[1.0], zero_point=[0]), "axis 9; its tensor has 4 axes"),
        (quantizer(users=[["conv1", 7]]), "this is the record of another model"),
        (quantizer(tensor="z"), "this is the record of another model"),
        (quantizer(id=[1]), "quantizer.id: input should be"),
        (quantizer(scale=0.0), "quantizer.scale"),
    ],
)
def test_comments_that_were_edited_are_errors(broken: str, message: str, mark: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize_from_record(one_conv(), f"{mark}{broken}\n{text()}")


def test_values_that_do_not_count_are_not_checked() -> None:
    twice = text().replace("    scale_d:", "    scale_d: -1\n    scale_d:")
    assert float(quantize_from_record(one_conv(), twice).params.activations["x"].scale) == 0.5


def test_two_entries_for_one_input_are_an_error() -> None:
    both = text() + text().replace("conv1", "conv1:0")
    with pytest.raises(ConfigValueError, match=r"'conv1:0' and 'conv1' are both for input 0"):
        quantize_from_record(one_conv(), both)


def test_scales_through_float16() -> None:
    made = quantize_from_record(
        one_conv(), text(scale_d=0.3, fakequant_precision_mode="FORCE_FP16_QUANT")
    )
    entry = made.record.entries["conv1"]
    assert entry["scale_d"] == pytest.approx(0.30004883, abs=1e-8)
    assert entry["fakequant_precision_mode"] == "FORCE_FP16_QUANT"
    tiny = text(scale_d=1e-6, fakequant_precision_mode="FORCE_FP16_QUANT")
    root = np.float32(np.float16(np.sqrt(np.float32(1e-6))))
    assert quantize_from_record(one_conv(), tiny).record.entries["conv1"]["scale_d"] == root * root


def test_older_types_and_what_other_editions_say() -> None:
    said = text(dst_type="INT16", scale_d=1e-3, offset_d=-3000)
    assert quantize_from_record(one_conv(), said).record.entries["conv1"]["dst_type"] == "INT16"
    shape = text().replace(
        "    scale_d", "    channels: 2 height: 1 width: 1 op_data_type: 'F'\n    scale_d"
    )
    quantize_from_record(one_conv(), shape)
    recurrent = text().replace("    scale_d", "    scale_h: 0.1\n    scale_d")
    with pytest.raises(UnsupportedError, match="recurrent layer"):
        quantize_from_record(one_conv(), recurrent)
    cache = 'record { key: "a" kv_cache_value { scale: 0.1 offset: 0 } }\n'
    with pytest.raises(UnsupportedError, match="cache of an attention"):
        quantize_from_record(one_conv(), cache + text())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "attention_add", "concat_branches"])
def test_entries_may_be_taken_out(name: str, target: str) -> None:
    record = quantized(name, target).record
    model, feeds = NETS[name]()
    for key in record.entries:
        entries = {k: v for k, v in record.entries.items() if k != key}
        extras = [e for e in record.extras if next(iter(e.values())) and key not in _layers_of(e)]
        made = quantize_from_record(model, "\n" + record_text(entries, extras))
        assert key not in made.record.entries
        assert all(np.isfinite(y).all() for y in outputs(made.deploy, feeds(batch=2, seed=0)))


def _layers_of(extra: Any) -> list[str]:
    said = next(iter(extra.values()))
    return [said["layer"]] if isinstance(said, dict) and "layer" in said else []

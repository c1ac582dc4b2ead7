"""The parameter record: fields, order, and floats that read back to the same float32."""

from __future__ import annotations

import json
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibrant.record.entries import record_entries, record_text
from tests.road import quantized


def test_a_layer_has_both_scales_offsets_and_types() -> None:
    result = quantized("residual", "generic")
    entries = record_entries(result.plan, result.params)
    assert list(entries) == [f"conv{i}" for i in range(5)]
    for layer, entry in entries.items():
        p = result.params.layers[layer]
        (decision,) = [d for d in result.plan.activations if (layer, 0) in d.users]
        q = result.params.activations[decision.id]
        assert entry["scale_d"] == float(q.scale)
        assert entry["offset_d"] == int(q.zero_point)
        assert entry["scale_w"] == [float(s) for s in p.weight.scale]
        assert entry["offset_w"] == [0] * 8
        assert (entry["act_type"], entry["wts_type"]) == ("INT8", "INT8")


def test_products_of_two_activations_have_an_entry_for_each_operand() -> None:
    result = quantized("attention_where", "generic")
    entries = record_entries(result.plan, result.params)
    assert entries["product"]["is_tensor_quantize"]
    assert entries["product:1"]["is_tensor_quantize"]
    assert "scale_w" not in entries["product"]
    assert "scale_w" in entries["out"]


def test_average_pooling_of_layers_only_has_an_entry() -> None:
    result = quantized("pools", "layers-only")
    assert record_entries(result.plan, result.params)["avg1"]["is_tensor_quantize"]


def test_text_and_json_say_the_same() -> None:
    result = quantized("conv_transpose", "generic")
    entries = record_entries(result.plan, result.params)
    text = record_text(entries)
    assert re.findall(r'key: "(.*)"', text) == list(entries)
    for field in ("scale_d", "scale_w"):
        written = [np.float32(v) for v in re.findall(rf"{field}: (\S+)", text)]
        wanted = [np.float32(v) for e in entries.values() for v in np.atleast_1d(e[field])]
        assert written == wanted
    assert text.count("{") == text.count("}")
    assert json.loads(json.dumps(entries)) == entries


@given(st.floats(2**-120, 2**120, width=32), st.text(max_size=12))
def test_floats_and_names_read_back(value: float, name: str) -> None:
    text = record_text({name: {"scale_d": value, "offset_d": -128, "act_type": "INT8"}})
    (written,) = re.findall(r"scale_d: (\S+)", text)
    assert np.float32(written) == np.float32(value)
    (key,) = re.findall(r'key: "((?:[^"\\]|\\.)*)"\n', text, flags=re.DOTALL)
    unescaped = key.replace("\\\\", "\0").replace('\\"', '"').replace("\\n", "\n")
    assert unescaped.replace("\0", "\\") == name.replace("\0", "\\")

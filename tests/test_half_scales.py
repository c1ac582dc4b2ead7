"""Scales rounded through float16 (FORCE_FP16_QUANT)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError, DataError
from calibrant.numerics.half_scale import through_float16
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, outputs, quantize


@given(st.floats(2.0**-22, 2.0**30, width=32))
def test_a_scale_is_what_float16_or_its_root_holds(s: float) -> None:
    found = float(through_float16(np.float32(s)))
    if 2.0**-14 <= s <= 65504:
        assert found == float(np.float32(np.float16(s)))
    else:
        root = np.float32(np.float16(np.sqrt(np.float32(s))))
        assert found == float(root * root)
    assert found == pytest.approx(s, rel=2e-3)
    assert float(through_float16(np.float32(found))) == found


def test_worked_example() -> None:
    assert float(through_float16(np.float32(0.3))) == pytest.approx(0.30004883, abs=1e-8)


def run(tmp_path: Path, mode: str) -> QuantizedModel:
    model, feeds = NETS["conv_bn_relu"]()
    path = tmp_path / f"{mode}.cfg"
    path.write_text(f"batch_num: 2\nfakequant_precision_mode: {mode}\n")
    return quantize(model, batches(feeds), load_recipe(path))


def test_the_vendors_mode_rounds_every_activation_scale_and_no_weight(tmp_path: Path) -> None:
    plain, forced = run(tmp_path, "DEFAULT"), run(tmp_path, "FORCE_FP16_QUANT")
    assert plain.params.activations.keys() == forced.params.activations.keys()
    changed = 0
    for key, p in plain.params.activations.items():
        f = forced.params.activations[key]
        assert float(f.scale) == float(through_float16(p.scale))
        assert int(f.zero_point) == int(p.zero_point)
        changed += float(f.scale) != float(p.scale)
    assert changed
    for key, layer in plain.params.layers.items():
        np.testing.assert_array_equal(layer.weight.scale, forced.params.layers[key].weight.scale)
    modes = {e.get("fakequant_precision_mode") for e in forced.record.entries.values()}
    assert modes == {"FORCE_FP16_QUANT"}
    assert all("fakequant_precision_mode" not in e for e in plain.record.entries.values())


def test_the_record_makes_the_same_model_again(tmp_path: Path) -> None:
    model, feeds = NETS["conv_bn_relu"]()
    forced = run(tmp_path, "FORCE_FP16_QUANT")
    forced.save(tmp_path)
    again = quantize_from_record(model, tmp_path / "record.txt")
    feed = feeds(batch=4, seed=7)
    for a, b in zip(outputs(forced.deploy, feed), outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.record.content() == forced.record.content()


def test_a_scale_that_float16_cannot_hold_is_an_error() -> None:
    model, feeds = NETS["gemm_mlp"]()
    data = [{n: x * np.float32(1e13) for n, x in f.items()} for f in batches(feeds)]
    with pytest.raises(DataError, match=r"scale of tensor .* which float16 cannot hold"):
        quantize(
            model, data, Recipe(scale_format="float16", equalize="off", bias_correction="off")
        )


def test_a_trained_model_keeps_its_scales() -> None:
    model, feeds = NETS["gemm_mlp"]()
    before = quantize(model, batches(feeds))
    keep = Rule(AllNodes(), Settings(activation=AlgorithmChoice("from-model")))
    with pytest.raises(ConfigValueError, match="scales rounded through float16"):
        quantize(before.deploy, None, Recipe((keep,), scale_format="float16"))

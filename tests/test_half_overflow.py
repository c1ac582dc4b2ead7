"""Values beyond the range of float16 saturate, are counted, and are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibrant.rebuild import quantize_from_record
from calibrant.recipe import Layer, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, outputs, quantize

HALF = Rule(Layer("fc2"), Settings(compute="float16"))


def run(factor: float) -> tuple[QuantizedModel, dict[str, np.ndarray]]:
    model, feeds = NETS["gemm_mlp"]()
    data = [{n: x * np.float32(factor) for n, x in f.items()} for f in batches(feeds)]
    recipe = Recipe((HALF,), equalize="off", bias_correction="off")
    return quantize(model, data, recipe), data[0]


def test_values_beyond_are_counted_and_the_node_is_named() -> None:
    result, feed = run(1e6)
    (island,) = result.summary["passes"]["float16"]
    assert island["node"] == "fc2"
    assert island["overflows"] > 0
    (warning,) = [w for w in result.summary["warnings"] if "'fc2'" in w]
    assert warning.startswith(f"{island['overflows']} values at node 'fc2' are beyond the range")
    model, feeds = NETS["gemm_mlp"]()
    data = [{n: x * np.float32(1e6) for n, x in f.items()} for f in batches(feeds)]
    shown = quantize(model, data, Recipe((HALF,), equalize="off"), per_node=True)
    assert shown.summary["passes"]["float16"] == result.summary["passes"]["float16"]
    for made in (result.deploy, result.fake_quant):
        (y,) = outputs(made, feed, optimize=False)
        assert np.isfinite(y).all()  # saturated, not infinite


def test_values_within_are_not() -> None:
    result, _ = run(1.0)
    (island,) = result.summary["passes"]["float16"]
    assert island["overflows"] == 0
    assert not any("float16" in w for w in result.summary["warnings"])
    assert not any(n.op_type == "Clip" for n in result.deploy.graph)


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_the_record_makes_the_same_model_again(factor: float, tmp_path: Path) -> None:
    model, _ = NETS["gemm_mlp"]()
    result, feed = run(factor)
    result.save(tmp_path)
    again = quantize_from_record(model, tmp_path / "record.txt")
    for a, b in zip(
        outputs(result.deploy, feed, optimize=False),
        outputs(again.deploy, feed, optimize=False),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)

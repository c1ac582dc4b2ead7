"""Channels that a quantizer rescaled are found from the weights, where no record says by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import AllNodes, Recipe, Rule, Settings, quantize
from calibrant.analysis.compare import compare
from calibrant.analysis.compare.report import Report
from tests.models import NETS, convolution
from tests.models.rescaled import rescaled
from tests.road import batches

REMARK = "its weights show that they were rescaled"


def rows(found: Report) -> dict[str, float]:
    return {r.name: r.metrics["sqnr_db"] for r in found.layers}


def remarks(found: Report) -> list[str]:
    return [n for n in found.notes if REMARK in n]


def test_figures_are_those_with_the_record(tmp_path: Path) -> None:
    model, feeds = convolution.depthwise_leaky()
    result = quantize(model, batches(feeds), Recipe(equalize="on"))
    assert result.form.equalized
    result.save(tmp_path)
    x = feeds(batch=4, seed=9)
    said, found = compare(model, tmp_path / "deploy.onnx", x), compare(model, result.deploy, x)
    assert not said.notes
    assert len(remarks(found)) == 1
    assert rows(found) == pytest.approx(rows(said), abs=0.3)
    assert [r.name for r in found.worst_first[:3]] == [r.name for r in said.worst_first[:3]]
    for mine, right in zip(found.layers, said.layers, strict=True):
        assert mine.born is not None
        assert right.born is not None
        assert mine.born.cause == right.born.cause


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", sorted(NETS))
def test_nothing_is_found_where_nothing_was_rescaled(name: str, bits: int) -> None:
    model, feeds = NETS[name]()
    recipe = Recipe(
        (Rule(AllNodes(), Settings(weight_bits=bits)),), equalize="off", bias_correction="off"
    )
    result = quantize(model, batches(feeds), recipe)
    assert not result.form.equalized
    assert not remarks(compare(model, result.deploy, feeds(batch=2, seed=9), born=False))


def test_channels_that_are_three_decades_apart_are_found() -> None:
    model, feeds = NETS["residual"]()
    other = rescaled(model, "w1", "w2")
    found = compare(model, other, feeds(batch=2, seed=9))
    assert len(remarks(found)) == 1
    assert min(rows(found).values()) > 100


def test_channels_that_the_layer_behind_does_not_scale_back_are_an_error_that_is_told() -> None:
    model, feeds = NETS["residual"]()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (weight,) = (t for t in other.graph.initializer if t.name == "w1")
    w = onnx.numpy_helper.to_array(weight) * np.linspace(0.5, 2, 8).reshape(-1, 1, 1, 1)
    weight.CopyFrom(onnx.numpy_helper.from_array(w.astype(np.float32), "w1"))
    found = compare(model, other, feeds(batch=2, seed=9))
    assert not remarks(found)
    assert found.worst_first[0].name == "conv1"

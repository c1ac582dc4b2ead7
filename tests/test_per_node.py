"""What `-v` shows of nodes and outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.numerics.metrics import cosine
from calibrant.recipe import Recipe, Rule
from calibrant.recipe.settings import Settings
from calibrant.recipe.where import AllNodes, Layer
from calibrant.runtime.nodes import output_distances
from calibrant.runtime.tap import expose
from tests.models import NETS
from tests.road import batches, every_net, outputs, quantize


def test_it_is_asked_for() -> None:
    model, feeds = NETS["residual"]()
    summary = quantize(model, batches(feeds)).summary
    assert summary["nodes"] == []
    assert summary["distances"] == []


@pytest.mark.parametrize("name", every_net())
def test_every_node_has_a_row(name: str) -> None:
    model, feeds = NETS[name]()
    result = quantize(model, batches(feeds), per_node=True)
    assert result.float_model is not None
    rows = result.summary["nodes"]
    assert [r["node"] for r in rows] == [n.name for n in result.float_model.graph]
    quantized = {d.node for d in result.plan.layers if d.quantized}
    for row in rows:
        assert (row["threshold"] is None) == (row["data_type"] == "float32")
        if row["node"] in quantized:
            assert row["data_type"] == "int8"
        if row["cosine"] is not None:
            assert row["cosine"] > 0.9
    assert any(r["cosine"] is not None for r in rows)


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
def test_a_cosine_is_that_of_the_nodes_output_on_the_first_sample(target: str) -> None:
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds), Recipe(target=target), per_node=True)
    assert result.float_model is not None
    feed = {n: x[:1] for n, x in batches(feeds)[0].items()}
    last = list(result.float_model.graph)[-1]
    row = result.summary["nodes"][-1]
    (a,) = outputs(expose(result.float_model, [last.outputs[0].name or ""]), feed)
    (b,) = outputs(result.deploy, feed, optimize=False)
    assert row["cosine"] == pytest.approx(cosine(a, b), abs=1e-6)


def test_thresholds_are_what_the_quantizers_keep() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    symmetric = Rule(AllNodes(), Settings(activation_symmetric=True))
    result = quantize(model, batches(feeds), Recipe(rules=(symmetric,)), per_node=True)
    rows = {r["node"]: r for r in result.summary["nodes"]}
    for d in result.plan.activations:
        for node, index in d.users:
            kept = float(result.params.activations[d.id].scale) * 127
            assert rows[node]["thresholds"][str(index)] == pytest.approx(kept)


def test_types_follow_the_settings() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    layers = [d.node for d in quantize(model, batches(feeds)).plan.layers if d.quantized]
    recipe = Recipe(
        rules=(
            Rule(AllNodes(), Settings.of_precision("int16")),
            Rule(Layer(layers[0]), Settings.of_precision("float16")),
        )
    )
    result = quantize(model, batches(feeds), recipe, per_node=True)
    types = {r["node"]: r["data_type"] for r in result.summary["nodes"]}
    assert types[layers[0]] == "float16"
    assert {types[n] for n in layers[1:]} <= {"int16"}
    row = next(r for r in result.summary["nodes"] if r["node"] == layers[0])
    assert row["cosine"] is not None
    assert row["cosine"] < 1.0  # against float32, not against itself


def test_output_distances_are_means_of_samples_and_name_the_worst() -> None:
    a = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    b = np.array([[3.0, 4.0], [1.0, 1.0], [0.0, 4.0]], dtype=np.float32)
    (found,) = output_distances([{"y": a[:2]}, {"y": a[2:]}], [{"y": b[:2]}, {"y": b[2:]}], [2, 1])
    assert found.cosine == pytest.approx((1 + 0.5**0.5 + 1) / 3)
    assert found.l1 == pytest.approx((0 + 0.5 + 1.0) / 3)
    assert found.rmse == pytest.approx((0 + 0.5**0.5 + 2**0.5) / 3)
    assert found.chebyshev == pytest.approx((0 + 1 + 2) / 3)
    assert (found.worst_sample, found.samples) == (1, 3)


def test_models_are_kept() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    result = quantize(model, batches(feeds))
    assert result.original is not None
    assert result.float_model is not None
    assert isinstance(result.original, ir.Model)
    assert any(n.op_type == "BatchNormalization" for n in result.original.graph)
    assert not any(n.op_type == "BatchNormalization" for n in result.float_model.graph)

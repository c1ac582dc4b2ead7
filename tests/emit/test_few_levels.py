"""What is shipped of a weight of few levels: integers that are levels, or indices, and what they save."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.record.entries import record_entries, record_text
from calibrant.results import QuantizedModel
from calibrant.save.tables import plan_table
from tests.models import NETS
from tests.road import batches, op_types, optimized, outputs, quantize, sqnr_db

NETWORKS = ("residual", "gemm_mlp", "matmul_mlp", "conv_bn_relu", "shared_weight")


@cache
def quantized(
    name: str, target: str = "generic", levels: int | None = 16, storage: str = "int8"
) -> QuantizedModel:
    model, feeds = NETS[name]()
    choice = AlgorithmChoice("arq")
    if levels is not None:
        choice = AlgorithmChoice.of("nuq", {"levels": levels, "storage": storage})
    recipe = Recipe(rules=(Rule(AllNodes(), Settings(weight=choice)),), target=target)
    return quantize(model, batches(feeds), recipe)


def initializers(model: ir.Model) -> dict[str, Any]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value}


@pytest.mark.parametrize("levels", [16, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_integers_are_levels(name: str, levels: int) -> None:
    result = quantized(name, levels=levels)
    stored = initializers(result.deploy)
    for node, layer in result.params.layers.items():
        assert layer.levels is not None
        assert len(layer.levels) == levels
        assert list(layer.levels) == sorted(set(layer.levels))
        assert set(np.unique(layer.values)) <= set(layer.levels)
        (data,) = [v for n, v in stored.items() if n.startswith(f"{node}__weight_quantized")] or [
            None
        ]
        if data is not None:  # a shared weight is stored once
            np.testing.assert_array_equal(data, layer.values)
            assert data.dtype == np.int8
    assert quantized(name, levels=None).params.layers[node].levels is None


@pytest.mark.parametrize("name", NETWORKS)
def test_more_levels_and_the_whole_grid_are_nearer_to_the_float_model(name: str) -> None:
    feed = NETS[name]()[1](batch=16, seed=9)
    reference = outputs(NETS[name]()[0], feed)
    found = [
        sqnr_db(reference, outputs(quantized(name, levels=levels).deploy, feed))
        for levels in (16, 32, None)
    ]
    assert found[2] > found[1] - 0.5  # from here on the noise of activations decides
    assert found[1] > found[0] + 2
    assert found[0] > 8


@pytest.mark.parametrize("name", NETWORKS)
def test_both_models_mean_the_same(name: str) -> None:
    result = quantized(name, "layers-only")
    feed = NETS[name]()[1](batch=8, seed=9)
    deploy = outputs(result.deploy, feed, optimize=False)
    fake = outputs(result.fake_quant, feed, optimize=False)
    assert sqnr_db(fake, deploy) > 35


@pytest.mark.parametrize("target", ["generic", "layers-only", "onnxruntime"])
@pytest.mark.parametrize("name", NETWORKS)
def test_indices_compute_the_same_as_int8(name: str, target: str) -> None:
    plain, packed = quantized(name, target), quantized(name, target, storage="indices")
    feed = NETS[name]()[1](batch=8, seed=9)
    for optimize in (True, False):
        for a, b in zip(
            outputs(plain.deploy, feed, optimize=optimize),
            outputs(packed.deploy, feed, optimize=optimize),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    types = {v.dtype for v in packed.deploy.graph.initializers.values()}
    assert ir.DataType.UINT4 in types
    assert "Gather" in op_types(packed.deploy)
    assert packed.summary["opset"]["after"] == 21
    assert plain.summary["opset"]["after"] < 21


def test_indices_run_the_kernels_of_int8(tmp_path: Path) -> None:
    plain = optimized(quantized("residual", "onnxruntime").deploy, tmp_path)
    packed = optimized(quantized("residual", "onnxruntime", storage="indices").deploy, tmp_path)
    assert "QLinearConv" in packed
    assert sorted(packed) == sorted(plain)


def test_indices_halve_the_weights_in_the_file(tmp_path: Path) -> None:
    sizes = {}
    for storage in ("int8", "indices"):
        result = quantized("residual", storage=storage)
        result.save(tmp_path / storage)
        model = onnx.load(tmp_path / storage / "deploy.onnx")
        onnx.checker.check_model(model, full_check=True)
        integers = (onnx.TensorProto.INT8, onnx.TensorProto.UINT4)
        sizes[storage] = sum(
            len(t.raw_data)
            for t in model.graph.initializer
            if t.data_type in integers
            and ("weight_quantized" in t.name or "_levels" in t.name or "_indices" in t.name)
            and "scale" not in t.name
            and "zero" not in t.name
        )
    few = quantized("residual", storage="indices").summary["size"]["few_levels"]
    assert sizes == {"int8": few["int8_bytes"], "indices": few["packed_bytes"]}
    assert sizes["indices"] < 0.56 * sizes["int8"]


@pytest.mark.parametrize(("levels", "bits"), [(16, 4), (32, 5)])
def test_the_summary_says_what_is_saved(levels: int, bits: int) -> None:
    result = quantized("gemm_mlp", levels=levels)
    few = result.summary["size"]["few_levels"]
    for entry in few["layers"]:
        count = result.params.layers[entry["layer"]].values.size
        assert entry["int8_bytes"] == count
        assert entry["packed_bytes"] == -(-count * bits // 8) + levels
        assert (entry["levels"], entry["index_bits"], entry["stored"]) == (levels, bits, "int8")
    assert [e["layer"] for e in few["layers"]] == list(result.params.layers)
    assert few["packed_bytes"] == sum(e["packed_bytes"] for e in few["layers"])
    uniform = quantized("gemm_mlp", levels=None).summary["size"]["few_levels"]
    assert uniform == {"layers": [], "int8_bytes": 0, "packed_bytes": 0}


def test_record_and_plan_have_the_levels() -> None:
    result = quantized("residual")
    entries = record_entries(result.plan, result.params)
    text = record_text(entries)
    blocks = dict(
        zip(
            re.findall(r'key: "(.*)"', text),
            [
                [int(v) for v in re.findall(r"cluster: (-?\d+)\n", block)]
                for block in text.split("record {")[1:]
            ],
            strict=True,
        )
    )
    rows = {t["readers"][0]: t for t in plan_table(result.plan, result.params)["tensors"]}
    for name, layer in result.params.layers.items():
        assert entries[name]["cluster"] == list(layer.levels or ())
        assert blocks[name] == list(layer.levels or ())
        assert rows[f"{name}:1"]["levels"] == list(layer.levels or ())
    assert json.loads(json.dumps(entries)) == entries
    plain = quantized("residual", levels=None)
    assert "cluster" not in record_text(record_entries(plain.plan, plain.params))


def test_biases_are_corrected_behind_few_levels() -> None:
    model, feeds = NETS["residual"]()
    choice = AlgorithmChoice.of("nuq", {"levels": 16})
    recipe = Recipe(
        rules=(Rule(AllNodes(), Settings(weight=choice)),), bias_correction="on", equalize="on"
    )
    result = quantize(model, batches(feeds), recipe)
    corrected = [n for n, layer in result.params.layers.items() if layer.bias is not None]
    assert corrected
    for layer in result.params.layers.values():
        assert set(np.unique(layer.values)) <= set(layer.levels or ())

"""What is born in each layer of a quantized graph adds up, and is put down to the right cause."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.analysis.compare import Report, compare
from calibrant.analysis.compare.report import LayerRow
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS, sabotaged
from tests.road import batches, every_net, quantize

FINE = Settings(activation_bits=16, weight_bits=8)
PLAIN = Recipe((Rule(AllNodes(), FINE),), equalize="off", bias_correction="off")

#: Of the share of an error that causes are told for, at least, where every quantizer can be read.
TOLD = 0.999


def rows(found: Report) -> dict[str, LayerRow]:
    return {row.name: row for row in found.layers}


def made(name: str, recipe: Recipe = PLAIN) -> tuple[Any, QuantizedModel, dict[str, Any]]:
    model, feeds = NETS[name]()
    return model, quantize(model, batches(feeds), recipe), feeds(batch=4, seed=9)


@pytest.mark.parametrize("form", ["deploy", pytest.param("fake_quant", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", every_net(but=("opset9", "opset11")))
def test_parts_add_up(name: str, form: str) -> None:
    model, result, x = made(name, Recipe(target="onnxruntime"))
    found = compare(model, getattr(result, form), x)
    assert any(row.born is not None for row in found.layers)
    for row in found.layers:
        b = row.born
        if b is None:
            continue
        whole = 0.0 if row.metrics["sqnr_db"] == math.inf else 1.0
        assert b.arrived + b.share == pytest.approx(whole, abs=1e-6)
        assert b.activations + b.weights + b.bias + b.other == pytest.approx(b.share, abs=1e-6)
        assert b.clipping + b.rounding + b.bias + b.other == pytest.approx(b.share, abs=1e-6)
        assert b.activations == pytest.approx(b.activation_clipping + b.activation_rounding)
        assert b.weights == pytest.approx(b.weight_clipping + b.weight_rounding)


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize("form", ["deploy", "fake_quant"])
@pytest.mark.parametrize("name", ["residual", "grouped", "pools", "gemm_mlp"])
def test_every_quantizer_is_read(name: str, form: str, target: str) -> None:
    coarse = Settings(activation_bits=8, weight_bits=8)
    recipe = replace(PLAIN, rules=(Rule(AllNodes(), coarse),), target=target)
    model, result, x = made(name, recipe)
    for row in compare(model, getattr(result, form), x).layers:
        assert row.born is not None
        assert abs(row.born.other) < 1 - TOLD, row.name


def spoiled(layer: str, **settings: Any) -> Recipe:
    return PLAIN.with_rules(Rule(Layer(layer), Settings(**settings)))


def test_a_clipped_activation_is_named() -> None:
    narrow = AlgorithmChoice.of("fixed", {"low": -0.02, "high": 0.02})
    model, result, x = made("residual", spoiled("conv3", activation=narrow))
    worst = compare(model, result.deploy, x).at_fault[0]
    assert worst.born is not None
    assert worst.born.cause == "clipping"
    assert worst.born.clipping > 0.9
    assert worst.name in ("conv3", "relu2")  # whose quantizer it is


def test_few_bits_of_a_weight_are_named() -> None:
    model, result, x = made("residual", spoiled("conv2", weight_bits=4))
    worst = compare(model, result.deploy, x).at_fault[0]
    assert worst.name == "conv2"
    assert worst.born is not None
    assert worst.born.cause == "rounding"
    assert worst.born.weights > 0.9


def test_the_channel_of_a_large_weight_is_named() -> None:
    model, feeds = NETS["residual"]()
    tensor = next(t for t in model.graph.initializer if t.name == "w2")
    w = onnx.numpy_helper.to_array(tensor).copy()
    w[3, 0, 0, 0] = 60 * np.abs(w).max()
    tensor.CopyFrom(onnx.numpy_helper.from_array(w, tensor.name))
    result = quantize(model, batches(feeds), PLAIN)
    worst = compare(model, result.deploy, feeds(batch=4, seed=9)).at_fault[0]
    assert worst.name == "conv2"
    assert worst.born is not None
    assert worst.born.channels[0][0] == 3
    assert worst.born.channels[0][1] > 0.9


def test_a_corrected_bias_is_named() -> None:
    model, result, x = made("residual", replace(PLAIN, rules=(), bias_correction="off"))
    other = onnx.ModelProto()
    other.CopyFrom(ir.to_proto(result.fake_quant))
    node = next(n for n in other.graph.node if n.name == "conv2")
    tensor = next(t for t in other.graph.initializer if t.name == node.input[2])
    b = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(b + np.float32(1), tensor.name))
    worst = compare(model, other, x).at_fault[0]
    assert worst.name == "conv2"
    assert worst.born is not None
    assert worst.born.cause == "bias"


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "pools"])
def test_quantizers_of_onnxruntime_are_read(name: str, per_channel: bool, tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, feeds = NETS[name]()
    onnx.save(model, tmp_path / "float.onnx")
    quant_pre_process(str(tmp_path / "float.onnx"), str(tmp_path / "ready.onnx"))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [feeds(batch=1, seed=i) for i in range(8)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    quantize_static(
        str(tmp_path / "ready.onnx"),
        str(tmp_path / "quantized.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )
    found = compare(tmp_path / "float.onnx", tmp_path / "quantized.onnx", feeds(batch=4, seed=9))
    layers = [row for row in found.layers if row.op_type in ("Conv", "Gemm", "MatMul")]
    assert layers
    for row in layers:
        assert row.born is not None
        assert row.born.arrived + row.born.share == pytest.approx(1, abs=1e-6)
        assert abs(row.born.other) < 0.05, row
        assert row.born.weights != 0


@pytest.mark.parametrize("metric", ["sqnr_db", "cosine_similarity", "relative_euclidean_distance"])
def test_hostile_channels_are_at_fault_by_every_metric(metric: str) -> None:
    model, feeds = sabotaged.hostile_channels()
    recipe = Recipe(equalize="off", bias_correction="off")
    recipe = recipe.with_rules(Rule(AllNodes(), Settings(activation=AlgorithmChoice("min-max"))))
    result = quantize(model, batches(feeds), recipe)
    worst = compare(model, result.deploy, feeds(batch=4, seed=9), metric=metric).at_fault[0]
    assert worst.name == "conv3"
    assert worst.born is not None
    assert worst.born.cause == "range"

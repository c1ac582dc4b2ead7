"""Calibrated models for the tests of the debug tool."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import batches, quantize

PLAIN = Recipe(
    (Rule(AllNodes(), Settings(activation=AlgorithmChoice("min-max"))),),
    equalize="off",
    bias_correction="off",
)


@cache
def calibrated(name: str, target: str = "generic") -> QuantizedModel:
    """Quantize one of `NETS` with nothing tried: its float model is the one that was given."""
    model, feeds = NETS[name]()
    return quantize(model, batches(feeds), replace(PLAIN, target=target))


def data_of(name: str, samples: int = 4) -> dict[str, Any]:
    """Return samples of one of `NETS`."""
    _, feeds = NETS[name]()
    return feeds(batch=samples, seed=7)


CHAIN = """
<ir_version: 10, opset_import: ["" : 21]>
chain (float[N,8] x) => (float[N,8] y)
<float[8,8] w0, float[8,8] w1, float[8,8] w2, float s = {0.02}, int8 z = {0}, float t = {0.02}, float u = {0.02},
 float v0 = {0.01}, float v1 = {0.01}, float v2 = {0.01}>
{
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  q0 = QuantizeLinear (w0, v0, z)
  d0 = DequantizeLinear (q0, v0, z)
  a = MatMul (xd, d0)
  aq = QuantizeLinear (a, t, z)
  ad = DequantizeLinear (aq, t, z)
  q1 = QuantizeLinear (w1, v1, z)
  d1 = DequantizeLinear (q1, v1, z)
  b = MatMul (ad, d1)
  bq = QuantizeLinear (b, u, z)
  bd = DequantizeLinear (bq, u, z)
  q2 = QuantizeLinear (w2, v2, z)
  d2 = DequantizeLinear (q2, v2, z)
  y = MatMul (bd, d2)
}
"""

#: Names of the calibration nodes of `chain`.
WEIGHTS, ACTIVATIONS = (
    ("w0__calib", "w1__calib", "w2__calib"),
    ("x__calib", "a__calib", "b__calib"),
)
NODES = ("first", "second", "third")


def chain(**scales: float) -> onnx.ModelProto:
    """Return three products, each with a calibration node in front of both inputs; scales by name (`s`, `v1`, …)."""
    model = onnx.parser.parse_model(CHAIN)
    rng = np.random.default_rng(3)
    for value in list(model.graph.initializer):
        if value.name in scales:
            number = np.array(scales[value.name], np.float32)
            value.CopyFrom(onnx.numpy_helper.from_array(number, value.name))
    for name in ("w0", "w1", "w2"):
        w = (rng.standard_normal((8, 8)) / 3).astype(np.float32).clip(-1.2, 1.2)
        model.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
    called = {"xd": "x__calib", "ad": "a__calib", "bd": "b__calib", "d0": "w0__calib"}
    called |= {"d1": "w1__calib", "d2": "w2__calib", "a": "first", "b": "second", "y": "third"}
    for node in model.graph.node:
        node.name = called.get(node.output[0], f"{node.output[0]}__node")
    return model


def samples(count: int = 4) -> dict[str, Any]:
    """Return samples of `chain`."""
    x = np.random.default_rng(5).standard_normal((count, 8)).clip(-2.4, 2.4)
    return {"x": x.astype(np.float32)}


def without(model: onnx.ModelProto, kept: set[str]) -> ir.Model:
    """Return a model in which only some calibration nodes are left, taken out one pair at a time."""
    found = ir.from_proto(model)
    for node in [n for n in found.graph if n.op_type == "DequantizeLinear"]:
        if node.name in kept:
            continue
        integers = node.inputs[0]
        quantize = integers.producer() if integers is not None else None
        assert quantize is not None
        source = quantize.inputs[0]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
        found.graph.remove(node, safe=True)
        found.graph.remove(quantize, safe=True)
    return found

"""Models that are odd in their form rather than in their arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.models._text import Model, Weights, build, normal, scalar
from tests.models.convolution import IMAGE

OPSETS = (9, 11, 13, 17, 21)


def of_opset(opset: int) -> Model:
    """Conv + BatchNormalization + Clip + ReduceMean + Gemm + Softmax, as that opset writes them."""
    w = Weights(40)
    weights = {"w1": w.conv(8, 3)} | w.batch_norm("n1", 8)
    weights |= {"wf": w.dense(5, 8, 8), "bf": w.vector(5)}
    if opset < 11:
        clip = "clip1 = Clip <min = 0.0, max = 6.0> (bn1)"
    else:
        clip = "clip1 = Clip (bn1, low, high)"
        weights |= {"low": scalar(0), "high": scalar(6)}
    if opset < 18:
        mean = "mean = ReduceMean <axes = [2,3], keepdims = 0> (clip1)"
    else:
        mean = "mean = ReduceMean <keepdims = 0> (clip1, axes)"
        weights |= {"axes": np.array([2, 3])}
    return build(
        f"""net (float[N,3,16,16] x) => (float[N,5] y) {{
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            bn1 = BatchNormalization (conv1, n1_g, n1_b, n1_m, n1_v)
            {clip}
            {mean}
            score = Gemm <transB = 1> (mean, wf, bf)
            y = Softmax <axis = 1> (score)
        }}""",
        weights,
        IMAGE,
        opset=opset,
    )


def unnamed_nodes() -> Model:
    """Two convolutions and an activation, none of which has a name."""
    w = Weights(41)
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            b = Relu (a)
            y = Conv (b, w2)
        }""",
        {"w1": w.conv(8, 3), "w2": w.conv(4, 8, 1)},
        IMAGE,
        named=False,
    )


def if_subgraph() -> Model:
    """A convolution, then an If whose branches hold one convolution each and read an outer value."""
    w = Weights(42)
    weights = {
        "w1": w.conv(4, 3),
        "w2": w.conv(4, 4),
        "w3": w.conv(4, 4, 1),
        "zero": scalar(0),
    }
    return build(
        """net (float[N,3,16,16] x) => (float[N,4,16,16] y) {
            conv1 = Conv <pads = [1,1,1,1]> (x, w1)
            relu1 = Relu (conv1)
            mean = ReduceMean <keepdims = 0> (x)
            bright = Greater (mean, zero)
            y = If (bright) <
                then_branch = yes () => (float[N,4,16,16] y_then) {
                    y_then = Conv <pads = [1,1,1,1]> (relu1, w2)
                },
                else_branch = no () => (float[N,4,16,16] y_else) {
                    y_else = Conv (relu1, w3)
                }
            >
        }""",
        weights,
        IMAGE,
    )


def already_quantized() -> Model:
    """A Gemm between QuantizeLinear and DequantizeLinear, with an int8 weight."""
    w = Weights(43)
    weight = np.clip(np.rint(w.dense(24, 8) / 0.01), -127, 127).astype(np.int8)
    weights = {"w1": weight, "ws": scalar(0.01), "zero": scalar(0, np.int8), "xs": scalar(0.03)}
    return build(
        """net (float[N,24] x) => (float[N,8] y) {
            xq = QuantizeLinear (x, xs, zero)
            xd = DequantizeLinear (xq, xs, zero)
            wd = DequantizeLinear (w1, ws, zero)
            y = Gemm (xd, wd)
        }""",
        weights,
        normal(24),
    )


def nothing_to_quantize() -> Model:
    """Element-wise arithmetic alone."""
    return build(
        """net (float[N,24] x) => (float[N,24] y) {
            a = Abs (x)
            y = Sqrt (a)
        }""",
        {},
        normal(24),
    )


def with_external_data(model: onnx.ModelProto, directory: Path) -> Path:
    """Write `model` to `directory/model.onnx` with every initializer in `weights.bin` beside it."""
    path = directory / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(
        copy,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def constant_weight() -> Model:
    """A Gemm whose weight comes from a Constant node, and one behind Identity and Transpose."""
    w = Weights(44)
    values = ", ".join(f"{v:.4f}" for v in w.dense(24, 4).ravel())
    return build(
        f"""net (float[N,24] x) => (float[N,3] y) {{
            k1 = Constant <value = float[24,4] {{ {values} }}> ()
            fc1 = MatMul (x, k1)
            relu1 = Relu (fc1)
            same = Identity (w2)
            turned = Transpose <perm = [1,0]> (same)
            y = MatMul (relu1, turned)
        }}""",
        {"w2": w.dense(3, 4, 4)},
        normal(24),
    )

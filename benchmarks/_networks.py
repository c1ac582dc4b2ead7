"""Large networks with random weights, built from their published shapes: ResNet-50 and ViT-B/16.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1 (stride in the 3x3 layer);
Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 224


class _Graph:
    """Nodes and weights, one after another."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float) -> str:
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def save(self, path: Path, output: str) -> None:
        free = ["N", 3, SIZE, SIZE]
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, free)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 1000])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))


def resnet50(path: Path) -> None:
    """Write ResNet-50, batch normalization folded into the convolutions."""
    g = _Graph(0)

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1, *, gain: float) -> str:
        w = g.normal(outputs, inputs, size, size, scale=math.sqrt(gain / (inputs * size * size)))
        b = g.normal(outputs, scale=0.1)
        return g.add("Conv", x, w, b, strides=[stride] * 2, pads=[size // 2] * 4)

    x = g.add("Relu", conv("x", 3, 64, 7, 2, gain=2.0))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = g.add("Relu", conv(x, channels, inner, 1, gain=2.0))
            y = g.add("Relu", conv(y, inner, inner, 3, stride, gain=2.0))
            y = conv(y, inner, 4 * inner, 1, gain=0.5)
            if not block:
                x = conv(x, channels, 4 * inner, 1, stride, gain=1.0)
            x = g.add("Relu", g.add("Add", y, x))
            channels = 4 * inner
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    g.save(path, g.add("Gemm", x, g.normal(channels, 1000, scale=0.02), g.normal(1000, scale=0.1)))


def vit_b16(path: Path) -> None:
    """Write ViT-B/16: 12 blocks of width 768 with 12 heads, on 196 patches and a class token."""
    g = _Graph(1)
    width, heads, tokens = 768, 12, (SIZE // 16) ** 2 + 1
    ones, zeros = (np.full(width, v, np.float32) for v in (1, 0))

    def dense(x: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        w = g.normal(inputs, outputs, scale=scale / math.sqrt(inputs))
        return g.add("Add", g.add("MatMul", x, w), g.normal(outputs, scale=0.02))

    def norm(x: str) -> str:
        return g.add("LayerNormalization", x, g.const(ones), g.const(zeros), epsilon=1e-6)

    shape = g.const(np.array([0, tokens, heads, width // heads], np.int64))
    joined = g.const(np.array([0, tokens, width], np.int64))

    def split(x: str, perm: list[int]) -> str:
        return g.add("Transpose", g.add("Reshape", dense(x, width, width), shape), perm=perm)

    patches = g.normal(width, 3, 16, 16, scale=1 / math.sqrt(768))
    x = g.add("Conv", "x", patches, g.normal(width, scale=0.02), strides=[16, 16])
    flat = g.const(np.array([0, width, -1], np.int64))
    x = g.add("Transpose", g.add("Reshape", x, flat), perm=[0, 2, 1])
    rows = g.add("Shape", "x", start=0, end=1)
    token_shape = g.add("Concat", rows, g.const(np.array([1, width], np.int64)), axis=0)
    token = g.add("Expand", g.normal(1, 1, width, scale=0.02), token_shape)
    x = g.add("Concat", token, x, axis=1)
    x = g.add("Add", x, g.normal(1, tokens, width, scale=0.02))
    half, one, root = (g.const(np.float32(v)) for v in (0.5, 1.0, math.sqrt(2)))
    for _ in range(12):
        y = norm(x)
        q, v = split(y, [0, 2, 1, 3]), split(y, [0, 2, 1, 3])
        k = split(y, [0, 2, 3, 1])
        scaled = g.add("Mul", q, g.const(np.float32((width // heads) ** -0.5)))
        weights = g.add("Softmax", g.add("MatMul", scaled, k), axis=-1)
        y = g.add("Transpose", g.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        x = g.add("Add", x, dense(g.add("Reshape", y, joined), width, width))
        y = dense(norm(x), width, 4 * width)
        y = g.add("Mul", y, g.add("Add", g.add("Erf", g.add("Div", y, root)), one))
        x = g.add("Add", x, dense(g.add("Mul", y, half), 4 * width, width))
    first = g.add("Gather", norm(x), g.const(np.int64(0)), axis=1)
    g.save(path, dense(first, width, 1000))


def images(count: int) -> dict[str, np.ndarray]:
    """Return smooth random images, each with a brightness of its own, normalized as pictures are."""
    rng = np.random.default_rng(2)
    coarse = rng.standard_normal((count, 3, SIZE // 16, SIZE // 16)).astype(np.float32)
    fine = rng.standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)
    x = np.repeat(np.repeat(coarse, 16, axis=2), 16, axis=3) + 0.3 * fine
    return {"x": x * rng.uniform(0.5, 1.5, (count, 1, 1, 1)).astype(np.float32)}


NETWORKS: dict[str, Callable[[Path], None]] = {"resnet50": resnet50, "vit-b16": vit_b16}

"""Make a model from ONNX text, arrays for its initializers, and a rule for its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference

Array = npt.NDArray[Any]
Feeds = Callable[..., dict[str, Array]]
"""`feeds(batch=4, seed=0)` returns one batch, by input name."""

Model = tuple[onnx.ModelProto, Feeds]

IR_VERSION = {9: 4, 11: 6, 13: 7, 17: 8, 21: 10}
"""The IR version that came with an opset."""


def build(
    graph: str,
    weights: Mapping[str, Any],
    feeds: Feeds,
    *,
    opset: int = 17,
    named: bool = True,
) -> Model:
    """Parse `graph`, attach `weights` and check the result.

    Args:
        graph: ONNX text of one graph, without the model header. Nodes get the name of their first
            output, also inside subgraphs.
        weights: Initializers by name.
        feeds: What the second value of the result is.
        opset: Version of the standard operators.
        named: False leaves every node without a name.
    """
    header = f'<ir_version: {IR_VERSION[opset]}, opset_import: ["" : {opset}]>\n'
    model = onnx.parser.parse_model(header + graph)
    if named:
        _name_nodes(model.graph)
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model), full_check=True)
    return model, feeds


def _name_nodes(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.name = node.output[0]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _name_nodes(attribute.g)


def normal(*shape: int, name: str = "x", scale: float = 1.0, shift: float = 0.0) -> Feeds:
    """Return feeds of one float32 input `name`: (batch, *shape), normal values."""

    def feeds(batch: int = 4, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        x = rng.normal(shift, scale, (batch, *shape)).astype(np.float32)
        return {name: x}

    return feeds


def scalar(value: float, dtype: type[np.generic] = np.float32) -> Array:
    """Return `value` as an array without axes."""
    return np.array(value, dtype=dtype)


class Weights:
    """Draw initializers of well-behaved size, in order, from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def conv(self, out: int, into: int, kernel: int = 3) -> Array:
        """Return (out, into, kernel, kernel), scaled so that outputs are about as large as inputs."""
        w = self._rng.normal(0, (into * kernel * kernel) ** -0.5, (out, into, kernel, kernel))
        return w.astype(np.float32)

    def dense(self, rows: int, columns: int, fan_in: int | None = None) -> Array:
        """Return (rows, columns) with variance 1 / fan_in (`rows` unless given)."""
        w = self._rng.normal(0, (fan_in or rows) ** -0.5, (rows, columns))
        return w.astype(np.float32)

    def vector(self, size: int, mean: float = 0.0, spread: float = 0.2) -> Array:
        """Return (size,), for a bias or a slope."""
        return self._rng.normal(mean, spread, size).astype(np.float32)

    def positive(self, size: int) -> Array:
        """Return (size,) in [0.5, 2], for a variance or a gain."""
        return self._rng.uniform(0.5, 2.0, size).astype(np.float32)

    def batch_norm(self, prefix: str, channels: int) -> dict[str, Array]:
        """Return gain, shift, mean and variance, named `{prefix}_g`, `_b`, `_m`, `_v`."""
        return {
            f"{prefix}_g": self.positive(channels),
            f"{prefix}_b": self.vector(channels),
            f"{prefix}_m": self.vector(channels),
            f"{prefix}_v": self.positive(channels),
        }

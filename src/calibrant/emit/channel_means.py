"""Means by channel, worked out inside a model, so that the tensor itself never leaves it.

    y (samples, channels, positions …) ── Reshape ── (samples, channels, positions) ─┬─ ReduceMean ───── (samples, channels)
                                                                                     └─ ReduceSumSquare ─ (samples, channels)

A runtime keeps a tensor that is an output until the end of a run, and copies it; sums of a tensor are a few numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from calibrant.graph.opset import main_opset
from calibrant.graph.values import Names, add_constant

__all__ = ["ChannelSums"]

#: From this opset on, axes of a reduction are an input.
#: Source: ONNX, operator ReduceMean, version 18.
_AXES_ARE_INPUT = 18


class ChannelSums:
    """Adds nodes to a model that reduce tensors over all axes but samples and channels; the model is changed.

    Args:
        model: Where the nodes go; sort its graph at the end.
    """

    def __init__(self, model: ir.Model) -> None:
        """Start without nodes."""
        self._graph, self._names = model.graph, Names(model.graph)
        self._opset = main_opset(model)
        self._rows: dict[str, tuple[ir.Value, int]] = {}

    def mean(self, value: ir.Value, axis: int) -> str | None:
        """Return the name of a new tensor (samples, channels): the mean; None where the shape says too little.

        Args:
            value: What is reduced; its first axis has the samples.
            axis: Axis of the channels: 1, or -1 for the last.
        """
        return self._reduced("ReduceMean", value, axis)

    def square(self, value: ir.Value, axis: int) -> str | None:
        """Return the same for the sum of squares, which is finite only where all values are."""
        return self._reduced("ReduceSumSquare", value, axis)

    def size(self, value: ir.Value) -> str:
        """Return the name of a new number: how many values a tensor has."""
        name = self._names.fresh(f"{value.name}__size")
        node = ir.Node("", "Size", [value], name=name)
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        self._graph.append(node)
        return name

    def _reduced(self, op: str, value: ir.Value, axis: int) -> str | None:
        rows = self._as_rows(value, axis)
        if rows is None:
            return None
        source, along = rows
        name = self._names.fresh(f"{value.name}__{op}")
        inputs, attributes = [source], [ir.AttrInt64("keepdims", 0)]
        if self._opset >= _AXES_ARE_INPUT:
            inputs.append(self._numbers(f"{name}__axes", [along]))
        else:
            attributes.append(ir.AttrInt64s("axes", [along]))
        node = ir.Node("", op, inputs, attributes, name=name)
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(node)
        return name

    def _as_rows(self, value: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
        """Return a tensor with one axis of positions, and which axis that is."""
        key = value.name or ""
        if key in self._rows:
            return self._rows[key]
        rank = len(value.shape) if value.shape is not None else None
        if value.dtype not in (None, ir.DataType.FLOAT) or rank in (0, 1):
            return None
        if axis == 1:
            shape, along = [0, 0, -1], 2
        else:
            channels = value.shape[-1] if value.shape is not None else None
            if not isinstance(channels, int):
                return None
            shape, along = [0, -1, channels], 1
        name = self._names.fresh(f"{key}__rows")
        node = ir.Node("", "Reshape", [value, self._numbers(f"{name}__shape", shape)], name=name)
        node.outputs[0].name = name
        self._graph.append(node)
        self._rows[key] = node.outputs[0], along
        return self._rows[key]

    def _numbers(self, name: str, numbers: Sequence[int]) -> ir.Value:
        return add_constant(self._graph, self._names.fresh(name), np.asarray(numbers, np.int64))

"""What one layer reads when it alone is quantized, and when it alone is left in float.

A layer's inputs are read at the points where the plan has quantizers in front of it; its weight and its bias are inputs
like the others. So each question about one layer is the same part of the model, fed with other values
(`runtime.downstream`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.ops import bias_of
from calibrant.graph.passes.half_nodes import in_front_of_rounding, rounded
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.affine import within
from calibrant.numerics.compensation import compensate
from calibrant.numerics.finite import as_quantized
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.biases import final_bias
from calibrant.plan.folding import float_weight, folded_scales
from calibrant.plan.parameters import Parameters
from calibrant.runtime.downstream import Gives

__all__ = ["HalfAlone", "LeftInFloat", "LeftInSingle", "QuantizedAlone", "Reading"]

Array = npt.NDArray[Any]


class Reading(Protocol):
    """What a layer reads instead of what it reads in the model that was run once."""

    @property
    def gives(self) -> Gives:
        """What becomes of what the layer gives."""
        ...

    def identity(self, layer: str) -> str:
        """Return a text that is another one where the layer's inputs are read in another way."""
        ...

    def constants(self, layer: str) -> Mapping[int, Array]:
        """Return weight and bias by input index."""
        ...

    def inputs(self, layer: str) -> list[int]:
        """Return the indices of the other inputs that are read in another way."""
        ...

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return the values of these inputs, from all tensors of the model that was run once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedAlone:
    """The layer alone is quantized; the model that was run once is the float model.

    Args:
        model: The float model that the plan belongs to.
        plan: Where quantizers stand.
        params: What they are.
    """

    model: ir.Model
    plan: Plan
    params: Parameters
    gives: Gives = "as computed"
    _grids: dict[str, dict[int, tuple[QuantParams, bool]]] = field(default_factory=dict)
    _weights: dict[str, WeightDecision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort quantizers by their readers."""
        for d in self.plan.activations:
            for reader, index in d.users:
                grid = self.params.activations[d.id], d.compensation
                self._grids.setdefault(reader, {})[index] = grid
        self._weights.update({w.layer: w for w in self.plan.weights})

    def grids(self, layer: str) -> Mapping[int, tuple[QuantParams, bool]]:
        """Return the grid of each input, and whether a second value says what the first leaves."""
        return self._grids.get(layer, {})

    def identity(self, layer: str) -> str:
        """Return the grids in front of its inputs."""
        grids = self.grids(layer).items()
        said = [
            (i, p.dtype.bits, p.axis, p.scale.tolist(), p.zero_point.tolist(), twice)
            for i, (p, twice) in grids
        ]
        return repr(said)

    def constants(self, layer: str) -> dict[int, Array]:
        """Return the weight that the integers stand for, and the bias as it is added."""
        weight = self._weights.get(layer)
        if weight is None:
            return {}
        node = self.model.graph.node(layer)
        floats = self.params.layers[layer].floats
        found: dict[int, Array] = {weight.input_index: self._unfolded(weight, floats)}
        place, bias = bias_of(node), final_bias(self.model, self.plan, self.params, weight)
        if bias is not None and place is not None and place[0] is node:
            found[place[1]] = bias.floats
        return found

    def inputs(self, layer: str) -> list[int]:
        """Return the inputs in front of which a quantizer stands."""
        return list(self.grids(layer))

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return these inputs, quantized and dequantized."""
        node = self.model.graph.node(layer)
        return {i: self.on_grid(layer, i, known[_name(node, i)]) for i in self.grids(layer)}

    def on_grid(self, layer: str, index: int, x: Array) -> Array:
        """Return values of an input, quantized and dequantized."""
        p, twice = self.grids(layer)[index]
        grid = compensate if twice else fake_quantize
        return np.asarray(grid(as_quantized(x), p).astype(np.float32))

    def clip(self, layer: str, index: int, x: Array) -> Array:
        """Return values of an input, those beyond the range of its grid at the end of it."""
        return within(as_quantized(x), self.grids(layer)[index][0])

    def clipped_weight(self, layer: str) -> Array:
        """Return the float weight of a layer, entries beyond the range of its grid at the end of it."""
        weight = self._weights[layer]
        given = float_weight(self.model, self.plan, weight, self.params.activations)
        return self._unfolded(weight, within(given, self.params.layers[layer].weight))

    def _unfolded(self, weight: WeightDecision, value: Array) -> Array:
        """Take the scales of the input's channels out of a weight."""
        folded = folded_scales(self.model, self.plan, weight, self.params.activations)
        return value if folded is None else np.asarray((value / folded).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class HalfAlone:
    """The layer alone computes in float16: what it reads and gives is rounded; sums are taken in float32.

    Args:
        model: The float model, which is the one that was run once.
    """

    model: ir.Model
    gives: Gives = "rounded"

    def identity(self, layer: str) -> str:
        """Return that it is float16."""
        return "float16"

    def constants(self, layer: str) -> dict[int, Array]:
        """Return weight and bias, rounded."""
        found = {}
        for index, source in enumerate(self.model.graph.node(layer).inputs):
            if source is not None and _is_float(source) and source.const_value is not None:
                found[index] = rounded(source.const_value.numpy())
        return found

    def inputs(self, layer: str) -> list[int]:
        """Return the inputs that are computed."""
        inputs = self.model.graph.node(layer).inputs
        return [
            i
            for i, v in enumerate(inputs)
            if v is not None and _is_float(v) and v.const_value is None
        ]

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return these inputs, rounded."""
        node = self.model.graph.node(layer)
        return {i: rounded(known[_name(node, i)]) for i in self.inputs(layer)}


@dataclass(frozen=True, slots=True, eq=False)
class LeftInFloat:
    """The layer alone is left in float; the model that was run once is the quantized one.

    Args:
        alone: The same layers, each quantized.
        base: The quantized model, simulated.
    """

    alone: QuantizedAlone
    base: ir.Model
    gives: Gives = "as computed"

    def identity(self, layer: str) -> str:
        """Return that it is float; all else is said by the quantized model."""
        return "float"

    def constants(self, layer: str) -> dict[int, Array]:
        """Return weight and bias as the float model has them."""
        node = self.alone.model.graph.node(layer)
        found = {}
        for index in self.alone.constants(layer):
            source = node.inputs[index]
            assert source is not None
            assert source.const_value is not None
            found[index] = source.const_value.numpy()
        return found

    def inputs(self, layer: str) -> list[int]:
        """Return the inputs in front of which a quantizer stands."""
        return self.alone.inputs(layer)

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return these inputs as they are in front of the quantizers."""
        node = self.base.graph.node(layer)
        return {i: known[_in_front(node.inputs[i])] for i in self.inputs(layer)}


@dataclass(frozen=True, slots=True, eq=False)
class LeftInSingle:
    """The layer alone computes in float32; in the model that was run once all layers read and give float16.

    Args:
        alone: The same layers, each in float16.
        base: The model whose layers read and give float16.
    """

    alone: HalfAlone
    base: ir.Model
    gives: Gives = "unrounded"

    def identity(self, layer: str) -> str:
        """Return that it is float32; all else is said by the model."""
        return "float32"

    def constants(self, layer: str) -> dict[int, Array]:
        """Return weight and bias as the float model has them."""
        node, found = self.alone.model.graph.node(layer), {}
        for index in self.alone.constants(layer):
            source = node.inputs[index]
            assert source is not None
            assert source.const_value is not None
            found[index] = source.const_value.numpy()
        return found

    def inputs(self, layer: str) -> list[int]:
        """Return the inputs that are computed."""
        return self.alone.inputs(layer)

    def values(self, layer: str, known: Mapping[str, Array]) -> dict[int, Array]:
        """Return these inputs as they are before they are rounded."""
        inputs = self.base.graph.node(layer).inputs
        found = {}
        for index in self.inputs(layer):
            source = inputs[index]
            assert source is not None
            found[index] = known[in_front_of_rounding(source).name or ""]
        return found


def _in_front(value: ir.Value | None) -> str:
    """Return the tensor that a quantized one is made of."""
    assert value is not None
    node = value.producer()
    if node is not None and node.op_type == "Add":  # of a value and what the first quantizer left
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert node is not None
    assert node.op_type == "DequantizeLinear"
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert source is not None
    return _name(source, 0)


def _name(node: ir.Node, index: int) -> str:
    source = node.inputs[index]
    assert source is not None
    return source.name or ""


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)

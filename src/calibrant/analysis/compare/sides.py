"""One side of a comparison: a graph in which quantizers are seen through.

A quantized model has more nodes than the float one: quantizers, casts, constants. Here each tensor has a *source*, the
tensor that a layer gave before quantizers took it, and an *end*, what its readers find: where one pair of quantizers
alone reads a tensor, that pair's output, and behind a layer with integer values, the output of its dequantization.

    Conv -> x -> QuantizeLinear -> DequantizeLinear -> y -> Relu           source of y: x; end of x: y

Seen through are QuantizeLinear, DequantizeLinear, Cast, Identity, Dropout, calibrant's function FakeQuantize, and the nodes
that the Ascend tools put around a layer (`<layer>.quant.fakequant.*` in front, `<layer>.fakedequant.*` behind, or what a
quant-info file names).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

import onnx_ir as ir
import onnx_ir.passes.common as common

from calibrant.analysis.compare.integers import with_float_operators, with_one_quantizer
from calibrant.graph.inferred import infer_shapes
from calibrant.graph.passes.names import name_everything
from calibrant.graph.quiet import quiet
from calibrant.graph.values import own_copy, values_by_name

__all__ = ["Side", "opened"]

_TRANSPARENT = frozenset(
    {
        "AscendAntiQuant",
        "AscendDequant",
        "AscendQuant",
        "Cast",
        "DequantizeLinear",
        "Dropout",
        "FakeQuantize",
        "Identity",
        "QuantizeLinear",
    }
)

#: Quantizers among these, of which a tensor that they alone read is told by what comes out of them.
_QUANTIZE = frozenset({"AscendQuant", "FakeQuantize", "QuantizeLinear"})

#: What names of nodes say in the Ascend tools' fake-quant graphs.
_IN_FRONT, _BEHIND = ".quant.fakequant.", ".fakedequant."

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)


def opened(model: ir.Model) -> ir.Model:
    """Copy a model so that constants are initializers, nodes have names, and shapes are known where ONNX can tell.

    Functions of other tools are inlined; FakeQuantize stays one node. Operators on integers become float ones between quantizers,
    and equal quantizers of one tensor become one.
    """
    with quiet("onnx_ir", "onnxscript"):
        model = own_copy(model)
        for step in (
            common.InlinePass(lambda f: f.name not in _TRANSPARENT),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.RemoveInitializersFromInputsPass(),
            common.RemoveUnusedNodesPass(),
            common.TopologicalSortPass(),
        ):
            step(model)
        name_everything(model)
        with_float_operators(model)
        with_one_quantizer(model)
        infer_shapes(model)
    return model


class Side:
    """A model that takes part in a comparison.

    Args:
        model: As `opened` gives it.
        in_front: Names of nodes that quantize, beside those that are known by type.
        behind: Names of nodes that dequantize what a layer gives.
    """

    def __init__(
        self, model: ir.Model, in_front: Collection[str] = (), behind: Collection[str] = ()
    ) -> None:
        """Look at each node once."""
        self.model = model
        self.values = values_by_name(model.graph)
        self._in_front, self._behind = frozenset(in_front), frozenset(behind)
        self._depends: set[ir.Value] = set(self.inputs)
        for node in model.graph:
            if _has_body(node) or any(v in self._depends for v in node.inputs):
                self._depends.update(node.outputs)

    @property
    def inputs(self) -> list[ir.Value]:
        """What a caller feeds."""
        return [v for v in self.model.graph.inputs if v.name not in self.model.graph.initializers]

    @cached_property
    def layers(self) -> list[ir.Node]:
        """Nodes that depend on an input and are not seen through, in order of execution."""
        return [
            n
            for n in self.model.graph
            if n.outputs and n.outputs[0] in self._depends and not self.is_transparent(n)
        ]

    def is_data(self, value: ir.Value) -> bool:
        """Whether a tensor depends on an input."""
        return value in self._depends

    def is_transparent(self, node: ir.Node) -> bool:
        """Whether a node is seen through."""
        return node.op_type in _TRANSPARENT or self._is_in_front(node) or self._is_behind(node)

    def _is_in_front(self, node: ir.Node) -> bool:
        name = node.name or ""
        return _IN_FRONT in name or name in self._in_front

    def _is_behind(self, node: ir.Node) -> bool:
        name = node.name or ""
        return _BEHIND in name or name in self._behind

    def source(self, value: ir.Value) -> ir.Value:
        """Return the tensor in front of all quantizers."""
        while (node := value.producer()) is not None and self.is_transparent(node):
            first = next((v for v in node.inputs if v is not None and self.is_data(v)), None)
            if first is None:
                break
            value = first
        return value

    def ends(self, value: ir.Value) -> list[ir.Value]:
        """Return what the readers of a tensor find in its place: one tensor, or several with equal values."""
        step, found = value, [value]
        while not step.is_graph_output():
            readers = [use.node for use in step.uses()]
            if not readers or not all(self.is_transparent(n) for n in readers):
                break
            begins = all(n.op_type in _QUANTIZE or self._is_behind(n) for n in readers)
            if step is value and not (begins and len(readers) == 1):
                break
            if len(readers) > 1 and any(n.op_type != "DequantizeLinear" for n in readers):
                break
            outputs = [n.outputs[0] for n in readers]
            step = outputs[0]
            if self.is_float(step):
                found = outputs
            if len(outputs) > 1 or self._is_behind(readers[0]):
                break  # quantizers behind it belong to the readers
        return found

    @cached_property
    def steps(self) -> set[ir.Value]:
        """Tensors that hold integers in floating point: between the nodes that the Ascend tools put around a layer."""
        found: set[ir.Value] = set()
        for node in self.model.graph:
            reads = any(v in found for v in node.inputs if v is not None)
            if not self._is_behind(node) and (reads or self._is_in_front(node)):
                found.update(node.outputs)
        return found

    def data_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the sources of a node's inputs that depend on an input of the model, in order."""
        return [self.source(v) for v in node.inputs if v is not None and self.is_data(v)]

    def constants(self, node: ir.Node) -> Iterator[ir.Value]:
        """Yield a node's other inputs."""
        for v in node.inputs:
            if v is not None and not self.is_data(v):
                yield v

    @cached_property
    def readers(self) -> dict[ir.Value, list[ir.Node]]:
        """Source -> the layers that read it, through quantizers or not."""
        found: dict[ir.Value, list[ir.Node]] = {}
        for node in self.layers:
            for value in dict.fromkeys(self.data_inputs(node)):
                found.setdefault(value, []).append(node)
        return found

    def is_float(self, value: ir.Value) -> bool:
        """Whether a tensor holds floating point numbers, as far as is known."""
        integers = any(u.node.op_type == "DequantizeLinear" and u.idx == 0 for u in value.uses())
        return value.dtype in (*_FLOATS, None) and not integers


def _has_body(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(a.type in kinds for a in node.attributes.values())

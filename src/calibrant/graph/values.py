"""Values of a graph: find them by name, name new ones, add constants, and copy them."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "Names",
    "add_constant",
    "drop_unused_initializers",
    "drop_weights",
    "node_named",
    "own_copy",
    "values_by_name",
]

#: Nodes by name, for graphs that were asked for one; neither is kept alive by it.
_nodes: WeakKeyDictionary[ir.Graph, WeakValueDictionary[str, ir.Node]] = WeakKeyDictionary()


def node_named(graph: ir.Graph, name: str) -> ir.Node:
    """Return a node of a graph by its name, without a walk over the graph each time.

    A graph may change: a node that left it, or has another name now, is looked up again.

    Raises:
        ValueError: There is none.
    """
    known = _nodes.get(graph)
    if known is None:
        known = _nodes[graph] = WeakValueDictionary()
    node = known.get(name)
    if node is None or node.graph is not graph or node.name != name:
        known.clear()
        known.update((n.name or "", n) for n in reversed(graph))  # of two, the first
        node = known.get(name)
        if node is None:
            raise ValueError(f"No node is named '{name}'.")
    return node


def values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return inputs, initializers and node outputs of a graph by name, those in bodies left out.

    An output without a name is one that its node does not give: it is nobody's.
    """
    values = {v.name or "": v for v in graph.inputs}
    values |= dict(graph.initializers)
    values |= {v.name: v for node in graph for v in node.outputs if v.name}
    return values


class Names:
    """Hands out names that no value and no node of a graph has yet, bodies included."""

    def __init__(self, graph: ir.Graph) -> None:
        """Start from the names of the graph."""
        self._taken = set(values_by_name(graph))
        for body in graph.subgraphs():
            self._taken |= {v.name or "" for v in body.inputs} | set(body.initializers)
        for node in graph.all_nodes():
            self._taken.add(node.name or "")
            self._taken.update(v.name or "" for v in node.outputs)

    def fresh(self, name: str) -> str:
        """Return `name`, with a number where it is taken."""
        candidate, n = name, 1
        while candidate in self._taken:
            candidate, n = f"{name}_{n}", n + 1
        self._taken.add(candidate)
        return candidate


def add_constant(graph: ir.Graph, name: str, data: npt.NDArray[np.generic]) -> ir.Value:
    """Add an initializer."""
    tensor = ir.Tensor(
        np.asarray(data), name=name
    )  # `ir.tensor` asks ten times as long what it is
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Remove the initializers that no node reads and that are no output."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def drop_weights(model: ir.Model) -> None:
    """Take the numbers out of a model that nobody reads again.

    Nodes and values know each other, so that such a model stays in memory until Python looks for cycles.
    """
    for value in model.graph.initializers.values():
        value.const_value = None


def own_copy(model: ir.Model) -> ir.Model:
    """Copy a model so that naming a constant in the copy does not rename the caller's tensor.

    A clone shares its tensors with the original, and a tensor carries the name of its value. Here each is
    wrapped; the numbers are not copied.
    """
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _wrapped(value.const_value)
    for node in copy.graph.all_nodes():
        constant = node.attributes.get("value") if node.op_type == "Constant" else None
        if constant is not None and constant.type == ir.AttributeType.TENSOR:
            node.attributes["value"] = ir.AttrTensor("value", _wrapped(constant.as_tensor()))
    return copy


def _wrapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), name=tensor.name)
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=tensor.name)

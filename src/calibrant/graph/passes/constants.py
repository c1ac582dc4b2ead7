"""Compute beforehand what depends on constants alone.

A weight that is written as a few nodes (a gain times a direction, a transposed or sliced matrix, a mask from its
shape) is a constant for whoever reads the model, and has to be one for placement: otherwise it is taken for an
activation. Each node whose inputs are all constant is evaluated by ONNX's own reference implementation, and its
outputs become initializers under their names. Bodies are graphs as any other: what their nodes read from outside
counts as an input.

Left alone, with the reason in the node's `meta`:

1. nodes that draw random numbers;
2. quantizers, which say more than the numbers they make;
3. operators that the reference implementation does not know, or fails at;
4. results that take over 64 MiB more than what they are computed from (a number spread over a large tensor).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper

from calibrant.graph.bodies import bodies, dependencies
from calibrant.graph.notes import add_note
from calibrant.graph.ops import is_constant
from calibrant.graph.opset import main_opset
from calibrant.graph.passes.shapes import fixed_graphs, known_dimensions
from calibrant.graph.values import Names

__all__ = [
    "GROWTH_LIMIT",
    "fold_constants",
    "lift_constants",
    "note_what_is_left",
    "put_constants",
    "why_not_folded",
]

logger = logging.getLogger(__name__)

#: A result may take so many bytes more than what it is computed from.
GROWTH_LIMIT = 64 * 2**20

#: Values of inputs up to this size are looked at to learn how large a result will be.
_SMALL = 1024

#: Key in a node's `meta` of why it was not computed although its inputs are constant.
_WHY_NOT = "calibrant.why_not_folded"

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

Array = npt.NDArray[Any]


def why_not_folded(node: ir.Node) -> str:
    """Return why a node of constant inputs was not computed; empty where it has others."""
    reason: str = node.meta.get(_WHY_NOT, "")
    return reason


def lift_constants(model: ir.Model) -> None:
    """Make initializers of Constant nodes, in place, bodies included."""
    names = Names(model.graph)
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.op_type == "Constant" and (tensor := _tensor(node)) is not None:
                put_constants(graph, names, node, [tensor])


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a Constant holds; None for a form that is not known."""
    if len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    match attribute.name:
        case "value":
            return attribute.as_tensor()
        case "value_float":
            return ir.tensor(np.array(attribute.as_float(), np.float32))
        case "value_floats":
            return ir.tensor(np.array(attribute.as_floats(), np.float32))
        case "value_int":
            return ir.tensor(np.array(attribute.as_int(), np.int64))
        case "value_ints":
            return ir.tensor(np.array(attribute.as_ints(), np.int64))
        case "value_string":
            return ir.StringTensor(np.array(attribute.value, dtype=np.bytes_))
        case "value_strings":
            return ir.StringTensor(np.array(attribute.value, dtype=np.bytes_))
    return None


def fold_constants(model: ir.Model, *, shapes: bool = False) -> None:
    """Compute every node that depends on constants alone, in place, bodies included.

    Args:
        model: A model in which every node and value has a name of its own.
        shapes: Also take what is known of shapes for constants (`passes.shapes`).
    """
    names = Names(model.graph)
    fixed = fixed_graphs(model) if shapes else set()
    for graph in list(model.graphs()):
        for node in list(graph):
            if not any(v.uses() or v.is_graph_output() for v in node.outputs):
                continue
            found = known_dimensions(node) if graph in fixed else None
            if found is None:
                found = _computed(node, model)
            if found is not None:
                put_constants(graph, names, node, [ir.tensor(x) for x in found])


def _computed(node: ir.Node, model: ir.Model) -> list[Array] | None:
    """Return the outputs of a node whose inputs are constant; None where it is left alone."""
    if not all(map(is_constant, dependencies(node))) or node.op_type in _QUANTIZERS:
        return None
    if node.op_type == "Identity":  # an output that is a constant
        return None
    inputs = [v for v in node.inputs if v is not None]
    reason = ""
    if node.op_type in _RANDOM:
        reason = "it draws random numbers"
    elif bodies(node):
        reason = "operators with bodies are not computed beforehand"
    elif node.domain not in ("", "ai.onnx"):
        reason = f"operators of domain '{node.domain}' are not computed beforehand"
    if reason:
        node.meta[_WHY_NOT] = reason
        return None
    feeds = {v.name or "": _array(v) for v in inputs}
    try:
        grown = _growth(node, feeds, model)
        results = _evaluated(node, feeds, model) if grown <= GROWTH_LIMIT else []
    except Exception as e:  # whatever numpy or the reference implementation raises
        logger.debug("node '%s' is not computed beforehand", node.name, exc_info=True)
        text = " ".join(str(e).split())[:120]
        node.meta[_WHY_NOT] = f"computing it beforehand fails ({type(e).__name__}: {text})"
        return None
    if not results:
        node.meta[_WHY_NOT] = (
            f"its result would take {grown / 2**20:.0f} MiB more than what it is computed from; "
            f"the limit is {GROWTH_LIMIT / 2**20:.0f} MiB"
        )
        return None
    return results


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def _growth(node: ir.Node, feeds: Mapping[str, Array], model: ir.Model) -> int:
    """Return how many bytes the outputs of a node take more than its inputs; 0 where nobody knows."""
    version = main_opset(model)
    schema = onnx.defs.get_schema(node.op_type, version, "")
    small = {n: x for n, x in feeds.items() if x.size <= _SMALL and x.dtype.kind in "iufb"}
    types = onnx.shape_inference.infer_node_outputs(
        schema,
        ir.serde.serialize_node(node),
        {n: _type(x) for n, x in feeds.items()},
        {n: onnx.numpy_helper.from_array(x, n) for n, x in small.items()},
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=model.ir_version,
    )
    before = sum(x.nbytes for x in feeds.values())
    return sum(_bytes(t) for t in types.values()) - before


def _type(x: Array) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(ir.DataType.from_numpy(x.dtype), x.shape)


def _bytes(kind: onnx.TypeProto) -> int:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.tensor_type.shape.dim]
    return math.prod(dims) * math.ceil(ir.DataType(kind.tensor_type.elem_type).itemsize)


def _evaluated(node: ir.Node, feeds: Mapping[str, Array], model: ir.Model) -> list[Array]:
    """Run one node."""
    from onnx.reference import ReferenceEvaluator

    alone = helper.make_model(
        helper.make_graph(
            [ir.serde.serialize_node(node)],
            "constant",
            [helper.make_value_info(n, _type(x)) for n, x in feeds.items()],
            [onnx.ValueInfoProto(name=v.name) for v in node.outputs if v.name],
        ),
        opset_imports=[helper.make_opsetid("", main_opset(model))],
        ir_version=model.ir_version,
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        results = ReferenceEvaluator(alone).run(None, dict(feeds))
    if not all(isinstance(x, np.ndarray | np.generic) for x in results):
        raise TypeError("its result is no tensor")
    return [np.ascontiguousarray(x) if np.ndim(x) else np.asarray(x) for x in results]


def put_constants(
    graph: ir.Graph, names: Names, node: ir.Node, results: Sequence[ir.TensorProtocol]
) -> None:
    """Put initializers into the place of a node's outputs, under their names; take out the node.

    An output of the graph cannot be an initializer that layers read as their weight: it stays the output of a
    node, an Identity of the initializer, which has another name.
    """
    outputs = [v for v in node.outputs if v.name]
    for out, tensor in zip(outputs, results, strict=True):
        name, shape, kind = out.name or "", out.shape, out.type
        places = [i for i, v in enumerate(graph.outputs) if v is out]
        tensor.name = names.fresh(f"{name}__value") if places else name
        value = ir.Value(
            name=tensor.name,
            const_value=tensor,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
        )
        out.replace_all_uses_with(value, replace_graph_outputs=True)
        out.name = names.fresh(f"{name}__computed")
        if places:
            copy = ir.Node("", "Identity", [value], name=names.fresh(f"{name}__handed_out"))
            handed = copy.outputs[0]
            handed.name, handed.shape, handed.type = name, shape, kind
            graph.insert_before(node, copy)
            for i in places:
                graph.outputs[i] = handed
        graph.register_initializer(value)
    graph.remove(node, safe=True)


def note_what_is_left(model: ir.Model) -> None:
    """Say of a prepared model which constants are computed only when it runs, for their size."""
    for node in model.graph.all_nodes():
        reason = why_not_folded(node)
        if "MiB" in reason:
            add_note(
                model,
                f"Node '{node.name}' ({node.op_type}) depends on constants alone and is computed when the model "
                f"runs: {reason}.",
            )

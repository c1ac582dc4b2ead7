"""Run a model piece by piece, so that a caller can look at a layer's output and change it.

The nodes are cut behind each stop. Between two stops lie the tensors that are still needed, for all
samples; so one walk over the model costs one pass of inference, however many layers are changed on the
way, where running the model again for each layer would cost as many passes as there are layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.graph.bodies import dependencies
from calibrant.graph.values import drop_weights, values_by_name
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session

__all__ = ["alone", "piece", "reads", "walk"]

Array = npt.NDArray[Any]


def walk(
    model: ir.Model,
    stops: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
) -> Iterator[tuple[str, list[Array]]]:
    """Yield each stop and its value for each feed; what the caller writes into an array is used on.

    Args:
        model: The model; it is not changed.
        stops: Names of node outputs. They are visited in graph order.
        feeds: Inputs.
        runtime: Where it runs.

    Yields:
        Name of the stop, and one writable array for each feed.
    """
    nodes = list(model.graph)
    order = {v.name: i for i, node in enumerate(nodes) for v in node.outputs}
    reading = [reads(node) for node in nodes]
    last_use: dict[str, int] = {}
    for i, names in enumerate(reading):
        for name in names:
            last_use[name] = i
    for name in stops:  # a stop is looked at, whether or not a node reads it
        last_use[name] = max(last_use.get(name, -1), order[name] + 1)
    states: list[dict[str, Array]] = [dict(feed) for feed in feeds]
    values = values_by_name(model.graph)
    start = 0
    for stop in sorted(dict.fromkeys(stops), key=lambda s: order[s]):
        end = order[stop] + 1
        if end > start:
            _advance(model, nodes[start:end], end, last_use, stop, states, values, runtime)
            start = end
        yield stop, [state[stop] for state in states]
        for state in states:
            for name in [n for n in state if last_use.get(n, -1) < end]:
                del state[name]


def _advance(
    model: ir.Model,
    nodes: list[ir.Node],
    end: int,
    last_use: Mapping[str, int],
    stop: str,
    states: list[dict[str, Array]],
    values: Mapping[str, ir.Value],
    runtime: Runtime,
) -> None:
    """Compute nodes up to `end` for every sample and keep what is read later."""
    made = {v.name or "": v for node in nodes for v in node.outputs if v.name}
    wanted = [n for n in made if n == stop or last_use.get(n, -1) >= end]
    part, needed = piece(model, nodes, wanted, values)
    session = open_session(part, runtime=runtime, integers=False)
    drop_weights(part)
    for state in states:
        results = infer(session, wanted, {n: state[n] for n in needed})
        state.update(
            (n, r if r.flags.writeable else np.array(r))
            for n, r in zip(wanted, results, strict=True)
        )


def piece(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    outputs: Sequence[str],
    values: Mapping[str, ir.Value] | None = None,
) -> tuple[ir.Model, list[str]]:
    """Return some nodes as a model of their own, and the tensors that it must be fed.

    Args:
        model: The model.
        nodes: Some of its nodes, in graph order.
        outputs: Tensors that they make.
        values: Values of the model by name, where they are at hand.
    """
    made = {v.name for node in nodes for v in node.outputs}
    names = list(dict.fromkeys(name for node in nodes for name in reads(node)))
    values = values if values is not None else values_by_name(model.graph)
    initializers = model.graph.initializers
    needed = [n for n in names if n not in made and n not in initializers]
    part = ir.GraphView(
        [values[n] for n in needed],
        [values[n] for n in outputs],
        nodes=nodes,
        initializers=tuple(initializers[n] for n in names if n in initializers),
        opset_imports=model.graph.opset_imports,
        name="piece",
    ).clone()
    for value in (*part.inputs, *part.outputs):  # a piece may be fed any batch
        value.shape = None
    functions = tuple(model.functions.values())
    return ir.Model(part, ir_version=model.ir_version, functions=functions), needed


def alone(model: ir.Model, node: ir.Node, output: str) -> tuple[ir.Model, dict[int, str]]:
    """Return one node as a model of its own whose every input is fed, and the names of these inputs by index.

    Args:
        model: The model.
        node: One of its nodes.
        output: The output of the node that is wanted.
    """
    part, _ = piece(model, [node], [output])
    graph = part.graph
    inner = next(n for n in graph if n.name == node.name)
    own = {}
    for index, source in enumerate(inner.inputs):
        if source is None or not source.name:
            continue
        kind = source.type or ir.TensorType(ir.DataType.FLOAT)
        value = ir.Value(name=f"read__{index}", type=kind)
        graph.inputs.append(value)
        inner.replace_input_with(index, value)
        own[index] = value.name or ""
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    for unused, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[unused]
    return part, own


def reads(node: ir.Node) -> list[str]:
    """Return the names that a node reads, those that its bodies take from outside too."""
    return [v.name for v in dependencies(node) if v.name]

"""The calibration nodes of a calibrated model, and the float model that is left without them.

A calibration node quantizes a tensor and dequantizes it at once. In a file it is

    x -> QuantizeLinear -> DequantizeLinear -> y                                       the usual pair
    x -> pair -> y,  x - y -> pair -> z,  y + z                                        with error compensation

and is known by the name of the (first) DequantizeLinear; `__dequantize` at its end is left out. All that read one
QuantizeLinear through several DequantizeLinear have one calibration node. Every other node is an ordinary node.

The float model is the same graph, in which everybody reads x. Weights that a file holds as integers have lost what
rounding took; they are float there as the integers say, and have no calibration node that could be switched.

Source: the calibrated model of Horizon's OpenExplorer, as its public documentation describes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.sides import opened
from calibrant.errors import ModelError
from calibrant.graph.load import ModelLike, load
from calibrant.graph.passes.lift_qdq import params_of
from calibrant.graph.values import Names, drop_unused_initializers
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.compensation import compensate
from calibrant.numerics.finite import as_quantized

__all__ = ["Calibrated", "Calibration", "Step", "read_calibrated"]

Array = npt.NDArray[Any]

#: An input of a step: a constant, or the output of an earlier step by number, -1 being what is quantized.
Input = int | ir.TensorProtocol | None

_SOURCE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operator of a calibration node, to be built again somewhere else."""

    op_type: str
    inputs: tuple[Input, ...]
    attributes: tuple[ir.Attr, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A calibration node.

    Args:
        name: Its name.
        kind: `weight` or `activation`.
        tensor: What it quantizes.
        grid: Scale and zero point, on the signed grid.
        compensated: A second value of 8 bits says what the first leaves.
        readers: Nodes that read the quantized tensor, in graph order, with the index of the input.
        steps: Its operators; the last one gives the result.
        weight: The float weight, for a weight.
        is_output: The quantized tensor is an output of the model.
    """

    name: str
    kind: str
    tensor: str
    grid: QuantParams
    compensated: bool
    readers: tuple[tuple[str, int], ...]
    steps: tuple[Step, ...]
    weight: Array | None
    is_output: bool

    @property
    def qtype(self) -> str:
        """Its type, such as `int8`, `int16` or `ec`."""
        return "ec" if self.compensated else f"int{self.grid.dtype.bits}"

    @property
    def thresholds(self) -> npt.NDArray[np.float64]:
        """The end of the grid that lies farther from 0, for each scale [units of the tensor]."""
        low, high = self.grid.range
        ends = np.where(self.grid.zero_point == 0, high, np.maximum(np.abs(low), np.abs(high)))
        return np.atleast_1d(np.asarray(ends, dtype=np.float64))

    def apply(self, x: Array) -> Array:
        """Return values as they come out of the node, float32."""
        grid = compensate if self.compensated else fake_quantize
        return np.asarray(grid(as_quantized(x), self.grid).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A calibrated model, taken apart.

    Args:
        model: The float model.
        nodes: Calibration nodes by name, in the order of their first readers.
        ordinary: Names of the ordinary nodes, in graph order.
        feeders: Ordinary node -> calibration nodes that it reads through.
        frozen: Weights that the file holds as integers.
        own_outputs: Names of Identity nodes that stand where an output of the model was quantized.
    """

    model: ir.Model
    nodes: Mapping[str, Calibration]
    ordinary: tuple[str, ...]
    feeders: Mapping[str, tuple[str, ...]]
    frozen: tuple[str, ...]
    own_outputs: frozenset[str]

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """Return the nodes of a kind: `node` (ordinary ones that read through calibration nodes), `weight`, `activation`."""
        if kind == "node":
            return tuple(n for n in self.ordinary if n in self.feeders)
        return tuple(n for n, c in self.nodes.items() if c.kind == kind)

    def switched(self, name: str) -> frozenset[str]:
        """Return the calibration nodes that a name stands for: itself, or those in front of an ordinary node."""
        return frozenset((name,) if name in self.nodes else self.feeders.get(name, ()))

    def layers_of(self, name: str) -> list[str]:
        """Return the ordinary nodes that a name is about: itself, or the readers of a calibration node."""
        if name not in self.nodes:
            return [name]
        return [r for r, _ in self.nodes[name].readers if r not in self.own_outputs]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs."""
        return tuple(v.name or "" for v in self.model.graph.outputs)


def read_calibrated(model_or_file: ModelLike) -> Calibrated:
    """Take a calibrated model apart.

    Args:
        model_or_file: Path, `onnx.ModelProto`, `onnx_ir.Model`, or a result of `calibrant.quantize`; it is not changed.

    Raises:
        ModelError: It cannot be read, has no calibration node, or one that is not understood.
    """
    model = opened(load(_calibrated_form(model_or_file), quantizers=True, integers=True))
    graph = model.graph
    data = _depends_on_inputs(graph)
    chains = list(_chains(graph))
    taken = {node for chain in chains for node in chain.nodes}
    identities = _Identities(graph)
    every = [_taken_out(graph, chain, data, taken, identities) for chain in chains]
    found = [c for c in every if c.readers]
    for chain in reversed(chains):
        for node in reversed(chain.nodes):
            graph.remove(node, safe=True)
    drop_unused_initializers(graph)
    frozen = [n.name or "" for n in graph if n.op_type == "DequantizeLinear" and _is_weight(n)]
    if not found:
        raise ModelError(
            "The model has no calibration nodes: pairs of QuantizeLinear and DequantizeLinear that read a float tensor. "
            "'calibrant quantize … --format horizon' writes a calibrated_model.onnx."
        )
    every_node = {n.name or "": n for n in graph}
    order = {name: i for i, name in enumerate(every_node)}
    found.sort(key=lambda c: min((order.get(n, len(order)) for n, _ in c.readers), default=-1))
    nodes = {c.name: c for c in found}
    hidden = identities.names
    ordinary = [n for n, x in every_node.items() if n not in hidden and x.op_type not in _HIDDEN]
    feeders: dict[str, tuple[str, ...]] = {}
    for c in found:
        for reader in dict.fromkeys(r for r, _ in c.readers):
            feeders[reader] = (*feeders.get(reader, ()), c.name)
    known = set(ordinary)
    kept = {n: f for n, f in feeders.items() if n in known}
    return Calibrated(model, nodes, tuple(ordinary), kept, tuple(frozen), frozenset(hidden))


#: Nodes of the float model that a user does not mean: they bring constants.
_HIDDEN = frozenset({"DequantizeLinear"})


def _calibrated_form(model: Any) -> Any:
    """Return the calibrated model of a result; every other model as it is."""
    from calibrant.results import QuantizedModel

    if not isinstance(model, QuantizedModel):
        return model
    from calibrant.formats.horizon.calibrated import emit_calibrated

    solution = model.solution
    return emit_calibrated(solution.model, solution.plan, solution.params)


# ------------------------------------------------------------------------------------------ finding them


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """The operators of one calibration node.

    Args:
        source: What they quantize.
        outputs: What they give: one value, or several that are equal.
        nodes: In graph order.
        line: Those that one result is made by.
        pair: Its own QuantizeLinear and DequantizeLinear.
    """

    source: ir.Value
    outputs: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    line: tuple[ir.Node, ...]
    pair: tuple[ir.Node, ...]


def _chains(graph: ir.Graph) -> Iterable[_Chain]:
    seconds: set[ir.Node] = set()
    known: dict[ir.Value, _Chain] = {}
    for node in graph:
        if node.op_type != "QuantizeLinear" or node in seconds:
            continue
        backs = [use.node for use in node.outputs[0].uses()]
        source = node.inputs[0]
        if source is None or any(b.op_type != "DequantizeLinear" for b in backs) or not backs:
            raise ModelError(
                f"The integers of '{node.name}' (QuantizeLinear) are read by an operator that computes with them. The "
                "debug tool takes models whose operators read floats: every QuantizeLinear is followed by a "
                "DequantizeLinear."
            )
        more = _compensation(source, backs[0]) if len(backs) == 1 else ()
        line, outputs = (node, backs[0], *more), tuple(b.outputs[0] for b in backs)
        nodes = (node, *backs, *more)
        if more:
            seconds.add(more[1])
            outputs = (more[-1].outputs[0],)
        if source in known:  # it quantizes what was quantized already
            source, line = known[source].source, (*known[source].line, *line)
        chain = _Chain(source, outputs, nodes, line, nodes[:2])
        known.update(dict.fromkeys(outputs, chain))
        yield chain


def _compensation(source: ir.Value, back: ir.Node) -> tuple[ir.Node, ...]:
    """Return Sub, QuantizeLinear, DequantizeLinear, Add of a compensated node; nothing where it is a plain one."""
    first = back.outputs[0]
    readers = {use.node.op_type: use.node for use in first.uses()}
    if set(readers) != {"Sub", "Add"} or len(tuple(first.uses())) != 2:
        return ()
    sub, add = readers["Sub"], readers["Add"]
    quantize = next((u.node for u in sub.outputs[0].uses()), None)
    if list(sub.inputs) != [source, first] or quantize is None:
        return ()
    second = next((u.node for u in quantize.outputs[0].uses()), None)
    if quantize.op_type != "QuantizeLinear" or second is None:
        return ()
    if second.op_type != "DequantizeLinear" or second.outputs[0] not in add.inputs:
        return ()
    return sub, quantize, second, add


def _is_weight(node: ir.Node) -> bool:
    """Whether a DequantizeLinear of constants stands for a weight; integers of 32 bits are a bias."""
    source = node.inputs[0]
    return source is not None and source.dtype != ir.DataType.INT32


def _depends_on_inputs(graph: ir.Graph) -> set[ir.Value]:
    found = {v for v in graph.inputs if v.name not in graph.initializers}
    for node in graph:
        if any(v in found for v in node.inputs) or any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        ):
            found.update(node.outputs)
    return found


# ---------------------------------------------------------------------------------------- taking them out


class _Identities:
    """Identity nodes that keep the names of outputs which were quantized."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._names = graph, Names(graph)
        self.names: list[str] = []

    def in_place_of(self, out: ir.Value, source: ir.Value) -> str:
        """Let an Identity of `source` be the output that `out` was; return the node's name."""
        name = out.name or ""
        out.name = self._names.fresh(f"{name}__quantized")
        node = ir.Node("", "Identity", [source])
        node.name = self._names.fresh(f"{name}__output")
        new = node.outputs[0]
        new.name, new.type, new.shape = name, out.type or source.type, out.shape
        outputs = self._graph.outputs
        outputs[[v is out for v in outputs].index(True)] = new
        self._graph.append(node)
        self.names.append(node.name)
        return node.name


def _taken_out(
    graph: ir.Graph,
    chain: _Chain,
    data: set[ir.Value],
    taken: set[ir.Node],
    identities: _Identities,
) -> Calibration:
    """Let the readers of a calibration node read what it quantizes."""
    quantize, back = chain.pair
    readers: list[tuple[str, int]] = []
    is_output = False
    for out in chain.outputs:
        for use in list(out.uses()):
            if use.node in taken:
                continue
            readers.append((use.node.name or "", use.idx))
            use.node.replace_input_with(use.idx, chain.source)
        if any(v is out for v in graph.outputs):
            is_output = True
            readers.append((identities.in_place_of(out, chain.source), 0))
    weight = None
    if chain.source not in data:
        const = chain.source.const_value
        weight = np.asarray(const.numpy()) if const is not None else None
    return Calibration(
        (back.name or "").removesuffix("__dequantize"),
        "activation" if chain.source in data else "weight",
        chain.source.name or "",
        params_of(quantize),
        any(n.op_type == "Sub" for n in chain.nodes),
        tuple(readers),
        tuple(_steps(chain)),
        weight,
        is_output,
    )


def _steps(chain: _Chain) -> Sequence[Step]:
    made = {chain.source: _SOURCE}
    found = []
    for number, node in enumerate(chain.line):
        inputs = tuple(_input(v, made, node) for v in node.inputs)
        found.append(Step(node.op_type, inputs, tuple(node.attributes.values())))
        made[node.outputs[0]] = number
    return found


def _input(value: ir.Value | None, made: Mapping[ir.Value, int], node: ir.Node) -> Input:
    if value is None:
        return None
    if value in made:
        return made[value]
    if value.const_value is None:
        raise ModelError(
            f"Input '{value.name}' of '{node.name}' ({node.op_type}) is computed; scales and zero points are constants."
        )
    return value.const_value
